using CommandLine;

namespace FlashAttention.Cli.Options;

/// <summary>What every command takes.</summary>
internal abstract class CommonOptions
{
    [Option("json", HelpText = "Print the result as one JSON object on standard output.")]
    public bool Json { get; set; }
}

/// <summary>What every command that computes takes.</summary>
internal abstract class DeviceOptions : CommonOptions
{
    [Option("device", MetaValue = "NAME", HelpText = "Where to compute: cpu (default), cuda (the same as cuda:0), cuda:1 ...")]
    public string? Device { get; set; }

    [Option("threads", MetaValue = "N", HelpText = "Threads of the CPU backend, 1 to 1024 (default: the processors this process may use).")]
    public int? Threads { get; set; }
}
