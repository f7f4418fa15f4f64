using FlashAttention.Interop;

namespace FlashAttention;

/// <summary>Where a step of the native library's loading looked.</summary>
public enum NativeLoadOrigin
{
    /// <summary><see cref="FlashAttentionNative.LibraryPath"/>.</summary>
    ExplicitPath,

    /// <summary>The environment variable FLASH_ATTENTION_LIBRARY.</summary>
    EnvironmentVariable,

    /// <summary>The folder of the assembly or of the program.</summary>
    ProgramFolder,

    /// <summary>runtimes/&lt;rid&gt;/native below the folder of the assembly or of the program.</summary>
    RuntimesFolder,

    /// <summary>The .NET host's and the operating system's own search.</summary>
    OperatingSystem,
}

/// <summary>What came of a step of the native library's loading.</summary>
public enum NativeLoadOutcome
{
    /// <summary>The library is loaded and in use.</summary>
    Loaded,

    /// <summary>There is no such file.</summary>
    NotFound,

    /// <summary>The operating system refused to load it.</summary>
    LoadFailed,

    /// <summary>It is another library, or another version of this one.</summary>
    IncompatibleInterface,
}

/// <summary>One step of the native library's loading.</summary>
/// <param name="Origin">Where the path comes from.</param>
/// <param name="Path">File that was tried, or the bare library name.</param>
/// <param name="Outcome">What came of it.</param>
/// <param name="Detail">The operating system's words, or the interface version.</param>
public sealed record NativeLoadStep(NativeLoadOrigin Origin, string Path, NativeLoadOutcome Outcome, string Detail)
{
    /// <summary>One line for people.</summary>
    /// <returns>Path, origin, outcome and detail.</returns>
    public override string ToString() => $"{Path} ({Origin}): {Outcome}, {Detail}";
}

/// <summary>The native library behind this assembly: where it comes from and what it is.</summary>
/// <remarks>It is loaded by the first call that needs it. All members may be used from any thread.</remarks>
public static class FlashAttentionNative
{
    /// <summary>The binary interface that this assembly was compiled for.</summary>
    public const int ExpectedAbiVersion = NativeConstants.FA_ABI_VERSION;

    /// <summary>File of the native library, or the folder it is in; null (the default) to search. Set it before the first call.</summary>
    /// <remarks>If it is set, nothing else is tried. The environment variable FLASH_ATTENTION_LIBRARY does the same with lower precedence.</remarks>
    /// <exception cref="InvalidOperationException">The library is already loaded.</exception>
    public static string? LibraryPath
    {
        get => NativeLibraryLoader.ExplicitPath;
        set => NativeLibraryLoader.ExplicitPath = value;
    }

    /// <summary>File name of the native library on this operating system.</summary>
    public static string LibraryFileName => NativeLibraryLoader.FileName;

    /// <summary>Product version of the loaded library, e.g. "0.2.0".</summary>
    /// <exception cref="FlashAttentionException">The library could not be loaded.</exception>
    public static unsafe string Version => NativeStatus.Utf8(NativeMethods.fa_version());

    /// <summary>Binary interface of the loaded library; always <see cref="ExpectedAbiVersion"/>, since no other is accepted.</summary>
    /// <exception cref="FlashAttentionException">The library could not be loaded.</exception>
    public static int AbiVersion => NativeMethods.fa_abi_version();

    /// <summary>One line about how the loaded library was built: compiler, CUDA toolkit and architectures, CPU instruction sets.</summary>
    /// <exception cref="FlashAttentionException">The library could not be loaded.</exception>
    public static unsafe string BuildInfo => NativeStatus.Utf8(NativeMethods.fa_build_info());

    /// <summary>Threads that the CPU backend uses, for the whole process, from the next call on.</summary>
    /// <value>1 … 1024; setting 0 means the number of processors that this process may run on.</value>
    /// <exception cref="FlashAttentionException">The number is out of range, or the library could not be loaded.</exception>
    public static unsafe int CpuThreadCount
    {
        get
        {
            int count = 0;
            NativeStatus.ThrowIfFailed(NativeMethods.fa_cpu_get_num_threads(&count));
            return count;
        }

        set => NativeStatus.ThrowIfFailed(NativeMethods.fa_cpu_set_num_threads(value));
    }

    /// <summary>How the library was found, or why it was not: every step of the last attempt in order. Loads it if that has not happened; never
    /// throws.</summary>
    /// <returns>Steps; the last one has <see cref="NativeLoadOutcome.Loaded"/> if the library is in use.</returns>
    public static IReadOnlyList<NativeLoadStep> Trace() => NativeLibraryLoader.Trace();
}
