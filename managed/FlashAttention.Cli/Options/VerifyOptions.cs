using CommandLine;

namespace FlashAttention.Cli.Options;

[Verb("verify", HelpText = "Check random problems, forward and backward, against a float64 computation from the definition.")]
internal sealed class VerifyOptions : DeviceOptions
{
    public static readonly string[] Examples =
    [
        "flashattn verify --quick",
        "flashattn verify --count 200 --seed 7",
        "flashattn verify --device cuda:0 --count 500",
        "flashattn verify --with window,sinks",
    ];

    [Option("count", MetaValue = "N", HelpText = "Number of problems (default 60, with --quick 12).")]
    public int? Count { get; set; }

    [Option("seed", MetaValue = "N", HelpText = "Seed of the problems (default: from the clock; it is printed, so that a run can be repeated).")]
    public int? Seed { get; set; }

    [Option("with", Separator = ',', MetaValue = "NAME,...",
        HelpText = "Variants of every problem: window, chunk, softcap, alibi, bias, visible, block-mask, sinks, dropout, sequences; 'none' (default: drawn).")]
    public IEnumerable<string> With { get; set; } = [];

    [Option("quick", HelpText = "Small problems only.")]
    public bool Quick { get; set; }
}
