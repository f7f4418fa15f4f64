using CommandLine;

namespace FlashAttention.BindingGenerator.Commands;

/// <summary>Options of both commands.</summary>
internal abstract class CommandOptions
{
    [Option("header", HelpText = "Header that includes the whole interface. Default: native/include/flash_attention/flash_attention.h of the repository.")]
    public string? Header { get; init; }

    [Option("include", HelpText = "Folder of the interface's headers. Default: the parent of the header's folder.")]
    public string? IncludeFolder { get; init; }

    [Option("output", HelpText = "Folder of the generated C#. Default: managed/FlashAttention/Interop/Generated of the repository.")]
    public string? Output { get; init; }

    [Option("baseline", HelpText = "The recorded binary interface. Default: bindings/abi-baseline.txt of the repository.")]
    public string? Baseline { get; init; }

    [Option("python", HelpText = "Generated ctypes declarations. Default: bindings/python/flash_attention/_abi.py of the repository; none with --header.")]
    public string? Python { get; init; }

    [Option("clang", HelpText = "Path of clang. Default: the environment variable CLANG, then clang or clang-NN on PATH.")]
    public string? Clang { get; init; }
}

/// <summary>Options of <c>generate</c>.</summary>
[Verb("generate", HelpText = "Writes the C# bindings and the record of the binary interface.")]
internal sealed class GenerateOptions : CommandOptions
{
    [Option("accept-abi-change", HelpText = "Write even if callers compiled against the recorded interface would break.")]
    public bool AcceptAbiChange { get; init; }
}

/// <summary>Options of <c>verify</c>.</summary>
[Verb("verify", HelpText = "Compares header, committed C#, recorded interface, C compiler and native library; exit code 1 and a list if they differ.")]
internal sealed class VerifyOptions : CommandOptions
{
    [Option("library", HelpText = "Native library whose exports are compared with the header (ELF or PE).")]
    public string? Library { get; init; }

    [Option("cc", HelpText = "C compiler whose sizes, offsets and values count. Default: the environment variable CC, then cc, gcc or clang on PATH.")]
    public string? Compiler { get; init; }
}
