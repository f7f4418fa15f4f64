using CommandLine;

namespace FlashAttention.Cli.Options;

[Verb("bench", HelpText = "Time forward and backward over a grid of shapes; every shape is checked for correctness first.")]
internal sealed class BenchOptions : ShapeScoreOptions
{
    public static readonly string[] Examples =
    [
        "flashattn bench",
        "flashattn bench --len 512,2048 --dim 64,128 --mask none,causal --dtype float16,float32",
        "flashattn bench --mask causal --window 255 --with alibi,sinks",
        "flashattn bench --device cuda --len 1024,4096,16384 --heads 16 --svg forward.svg --pass forward",
    ];

    [Option("len", Separator = ',', MetaValue = "N,N...", HelpText = "Sequence lengths (default 512,1024,2048); not with --seq-lens.")]
    public IEnumerable<int> Lengths { get; set; } = [];

    [Option("dim", Separator = ',', MetaValue = "N,N...", HelpText = "Head dimensions (default 64,128).")]
    public IEnumerable<int> Dims { get; set; } = [];

    [Option("mask", Separator = ',', MetaValue = "MASK,...", HelpText = "Masks: none, causal (bottom-right), causal-top-left (default none,causal).")]
    public IEnumerable<string> Masks { get; set; } = [];

    [Option("dtype", Separator = ',', MetaValue = "TYPE,...", HelpText = "Element types (default float16).")]
    public IEnumerable<string> DTypes { get; set; } = [];

    [Option("pass", Default = "both", MetaValue = "PASS", HelpText = "forward, backward or both.")]
    public string Pass { get; set; } = "both";

    [Option("batch", Default = 1, MetaValue = "N", HelpText = "Sequences.")]
    public int Batch { get; set; } = 1;

    [Option("heads", Default = 8, MetaValue = "N", HelpText = "Query heads.")]
    public int Heads { get; set; } = 8;

    [Option("kv-heads", MetaValue = "N", HelpText = "Key and value heads (default: as --heads).")]
    public int? KvHeads { get; set; }

    [Option("repeat", Default = 15, MetaValue = "N", HelpText = "Most timed runs per cell; the median counts.")]
    public int Repeat { get; set; } = 15;

    [Option("seconds", Default = 2.0, MetaValue = "X", HelpText = "Most seconds of timed runs per cell (at least 3 runs are made).")]
    public double Seconds { get; set; } = 2.0;

    [Option("seed", Default = 1, MetaValue = "N", HelpText = "Seed of the inputs (normally distributed).")]
    public int Seed { get; set; } = 1;

    [Option("deterministic", HelpText = "Time the deterministic backward pass.")]
    public bool Deterministic { get; set; }

    [Option("kernel", Default = "auto", MetaValue = "FAMILY", HelpText = "Insist on a family of kernels: auto, cpu, sm80, sm90.")]
    public string Kernel { get; set; } = "auto";

    [Option("svg", MetaValue = "FILE", HelpText = "Also draw TFLOP/s over the length as an SVG plot.")]
    public string? Svg { get; set; }

    [Option("overwrite", HelpText = "Replace the SVG file if it exists.")]
    public bool Overwrite { get; set; }
}
