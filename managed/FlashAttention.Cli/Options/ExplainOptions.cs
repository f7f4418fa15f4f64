using CommandLine;

namespace FlashAttention.Cli.Options;

[Verb("explain", HelpText = "What would run for a shape, and what it costs beside naive attention, step by step.")]
internal sealed class ExplainOptions : ShapeScoreOptions
{
    public static readonly string[] Examples =
    [
        "flashattn explain --len-q 4096 --dim 128 --mask causal",
        "flashattn explain --batch 2 --heads 32 --kv-heads 8 --len-q 8192 --dim 128 --dtype bfloat16 --assume-cc 90 --assume-sms 132",
        "flashattn explain --len-q 8192 --mask causal --window 1023 --softcap 30 --with alibi --assume-cc 90",
        "flashattn explain --len-q 1 --len-kv 65536 --pass forward --device cuda --json",
    ];

    [Option("batch", Default = 1L, MetaValue = "N", HelpText = "Sequences.")]
    public long Batch { get; set; } = 1;

    [Option("heads", Default = 8L, MetaValue = "N", HelpText = "Query heads.")]
    public long Heads { get; set; } = 8;

    [Option("kv-heads", MetaValue = "N", HelpText = "Key and value heads (default: as --heads).")]
    public long? KvHeads { get; set; }

    [Option("len-q", MetaValue = "N", HelpText = "Queries per sequence (default 2048; with --seq-lens their sum).")]
    public long? LenQ { get; set; }

    [Option("len-kv", MetaValue = "N", HelpText = "Keys per sequence (default: as --len-q; with --seq-lens-kv their sum).")]
    public long? LenKv { get; set; }

    [Option("dim", Default = 128L, MetaValue = "N", HelpText = "Head dimension of queries and keys.")]
    public long Dim { get; set; } = 128;

    [Option("dim-v", MetaValue = "N", HelpText = "Head dimension of values (default: as --dim).")]
    public long? DimV { get; set; }

    [Option("dtype", Default = "float16", MetaValue = "TYPE", HelpText = "float32, float16 or bfloat16.")]
    public string DType { get; set; } = "float16";

    [Option("mask", Default = "none", MetaValue = "MASK", HelpText = "none, causal (bottom-right), causal-top-left or causal-bottom-right.")]
    public string Mask { get; set; } = "none";

    [Option("pass", Default = "both", MetaValue = "PASS", HelpText = "forward, backward or both.")]
    public string Pass { get; set; } = "both";

    [Option("deterministic", HelpText = "Plan for bitwise equal gradients.")]
    public bool Deterministic { get; set; }

    [Option("kernel", Default = "auto", MetaValue = "FAMILY", HelpText = "Insist on a family of kernels: auto, cpu, sm80, sm90.")]
    public string Kernel { get; set; } = "auto";

    [Option("assume-cc", MetaValue = "CC", HelpText = "Plan for an absent GPU of this compute capability: 80, 86, 89, 90 ...")]
    public int? AssumeComputeCapability { get; set; }

    [Option("assume-sms", MetaValue = "N", HelpText = "Multiprocessors of the absent GPU (default: usual for the compute capability).")]
    public int? AssumeMultiprocessors { get; set; }
}
