using System.Diagnostics.CodeAnalysis;
using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;

namespace FlashAttention.Interop;

/// <summary>Finds and loads the native library on the first call, checks that it speaks this assembly's binary interface, and records each step.</summary>
/// <remarks>Order: the path set in code or in the environment (then nothing else is tried), the folders of the assembly and of the program, their
/// runtimes/&lt;rid&gt;/native folders, and the operating system's own search. A failed load is tried again by the next call, so a path can be set after a
/// failure.</remarks>
internal static class NativeLibraryLoader
{
    public const string LibraryName = NativeMethods.LibraryName;
    public const string PathVariable = "FLASH_ATTENTION_LIBRARY";

    private static readonly Lock Gate = new();
    private static readonly List<NativeLoadStep> Steps = [];
    private static string? _explicitPath;
    private static nint _handle;

    /// <summary>File name of the library on this operating system.</summary>
    public static string FileName =>
        OperatingSystem.IsWindows() ? "flash_attention.dll" : OperatingSystem.IsMacOS() ? "libflash_attention.dylib" : "libflash_attention.so";

    public static string? ExplicitPath
    {
        get
        {
            lock (Gate)
            {
                return _explicitPath;
            }
        }

        set
        {
            lock (Gate)
            {
                if (_handle != 0 && value != _explicitPath)
                {
                    throw new InvalidOperationException(
                        $"LibraryPath: expected to be set before the first call, but the library is already loaded from {Steps[^1].Path}.");
                }

                _explicitPath = value;
            }
        }
    }

    // A module initialiser, because a static constructor on the generated class would put a check into every call. It only registers a delegate.
    [ModuleInitializer]
    [SuppressMessage("Usage", "CA2255", Justification = "The resolver must be in place before the first P/Invoke of this assembly, whichever that is.")]
    internal static void Register() => NativeLibrary.SetDllImportResolver(typeof(NativeLibraryLoader).Assembly, Resolve);

    /// <summary>Steps of the last attempt; makes the attempt if there was none.</summary>
    public static IReadOnlyList<NativeLoadStep> Trace()
    {
        lock (Gate)
        {
            if (_handle == 0)
            {
                _ = TryLoad();
            }

            return [.. Steps];
        }
    }

    private static nint Resolve(string name, Assembly assembly, DllImportSearchPath? searchPath)
    {
        if (name != LibraryName)
        {
            return 0;
        }

        lock (Gate)
        {
            return _handle != 0 || TryLoad() ? _handle : throw new FlashAttentionException(AttentionStatus.LibraryUnavailable, Report());
        }
    }

    private static bool TryLoad()
    {
        Steps.Clear();
        string? environmentPath = Environment.GetEnvironmentVariable(PathVariable);
        if (!string.IsNullOrEmpty(_explicitPath))
        {
            return TryFile(NativeLoadOrigin.ExplicitPath, FileIn(_explicitPath));
        }

        if (!string.IsNullOrEmpty(environmentPath))
        {
            return TryFile(NativeLoadOrigin.EnvironmentVariable, FileIn(environmentPath));
        }

        List<string> folders = Folders();
        foreach (string folder in folders)
        {
            if (TryFile(NativeLoadOrigin.ProgramFolder, Path.Combine(folder, FileName)))
            {
                return true;
            }
        }

        foreach (string folder in folders)
        {
            if (TryFile(NativeLoadOrigin.RuntimesFolder, Path.Combine(folder, "runtimes", RuntimeIdentifier(), "native", FileName)))
            {
                return true;
            }
        }

        return TryOperatingSystem();
    }

    private static bool TryFile(NativeLoadOrigin origin, string path)
    {
        if (!File.Exists(path))
        {
            Steps.Add(new NativeLoadStep(origin, path, NativeLoadOutcome.NotFound, "no such file"));
            return false;
        }

        try
        {
            return Accept(origin, path, NativeLibrary.Load(path));
        }
        catch (Exception e) when (e is DllNotFoundException or BadImageFormatException)
        {
            Steps.Add(new NativeLoadStep(origin, path, NativeLoadOutcome.LoadFailed, Reason(e)));
            return false;
        }
    }

    private static bool TryOperatingSystem()
    {
        try
        {
            return Accept(NativeLoadOrigin.OperatingSystem, LibraryName, NativeLibrary.Load(LibraryName, typeof(NativeLibraryLoader).Assembly, null));
        }
        catch (Exception e) when (e is DllNotFoundException or BadImageFormatException)
        {
            Steps.Add(new NativeLoadStep(NativeLoadOrigin.OperatingSystem, LibraryName, NativeLoadOutcome.LoadFailed, Reason(e)));
            return false;
        }
    }

    /// <summary>The handshake: takes a loaded library only if it speaks the interface that the bindings were generated for.</summary>
    private static unsafe bool Accept(NativeLoadOrigin origin, string path, nint handle)
    {
        if (!NativeLibrary.TryGetExport(handle, nameof(NativeMethods.fa_abi_version), out nint export))
        {
            NativeLibrary.Free(handle);
            Steps.Add(new NativeLoadStep(origin, path, NativeLoadOutcome.IncompatibleInterface, "it does not export fa_abi_version"));
            return false;
        }

        int version = ((delegate* unmanaged[Cdecl]<int>)export)();
        if (version != FlashAttentionNative.ExpectedAbiVersion)
        {
            NativeLibrary.Free(handle);
            Steps.Add(new NativeLoadStep(
                origin, path, NativeLoadOutcome.IncompatibleInterface, $"expected interface version {FlashAttentionNative.ExpectedAbiVersion}, got {version}"));
            return false;
        }

        _handle = handle;
        Steps.Add(new NativeLoadStep(origin, path, NativeLoadOutcome.Loaded, $"interface version {version}"));
        return true;
    }

    private static string FileIn(string path) => Path.GetFullPath(Directory.Exists(path) ? Path.Combine(path, FileName) : path);

    private static string RuntimeIdentifier()
    {
        string system = OperatingSystem.IsWindows() ? "win" : OperatingSystem.IsMacOS() ? "osx" : "linux";
        return $"{system}-{RuntimeInformation.ProcessArchitecture.ToString().ToLowerInvariant()}";
    }

    [UnconditionalSuppressMessage("SingleFile", "IL3000", Justification = "An empty location (single file, NativeAOT) is skipped.")]
    private static List<string> Folders()
    {
        List<string> folders = [];
        string? assemblyFolder = Path.GetDirectoryName(typeof(NativeLibraryLoader).Assembly.Location);
        if (!string.IsNullOrEmpty(assemblyFolder))
        {
            folders.Add(assemblyFolder);
        }

        string programFolder = Path.TrimEndingDirectorySeparator(AppContext.BaseDirectory);
        if (!folders.Contains(programFolder))
        {
            folders.Add(programFolder);
        }

        return folders;
    }

    private static string Report()
    {
        StringBuilder report = new("The native library ");
        report.Append(FileName).Append(" could not be loaded. Tried:");
        foreach (NativeLoadStep step in Steps)
        {
            report.Append(Environment.NewLine).Append("  ").Append(step);
        }

        report.Append(Environment.NewLine).Append("Set the environment variable ").Append(PathVariable)
            .Append(" or FlashAttentionNative.LibraryPath to the file or its folder.");
        return report.ToString();
    }

    /// <summary>The operating system's words. Where the runtime gives its own advice first and then a line for each place it looked, only lines that say more
    /// than "no such file" are kept, or else the places.</summary>
    private static string Reason(Exception exception)
    {
        const string NoSuchFile = ": cannot open shared object file: No such file or directory";
        string[] lines = exception.Message.Split(['\r', '\n'], StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        if (lines.Length < 2)
        {
            return exception.Message;
        }

        string[] telling = Array.FindAll(lines[1..], line => !line.EndsWith(NoSuchFile, StringComparison.Ordinal));
        return telling.Length > 0
            ? string.Join("; ", telling)
            : "no such file: " + string.Join(", ", lines[1..].Select(line => line.Replace(NoSuchFile, string.Empty, StringComparison.Ordinal)));
    }
}
