using CommandLine;

namespace FlashAttention.Cli.Options;

[Verb("run", HelpText = "Compute attention on tensors from .npy or .safetensors files.")]
internal sealed class RunOptions : FileScoreOptions
{
    public static readonly string[] Examples =
    [
        "flashattn run --q q.npy --k k.npy --v v.npy --causal --out o.npy",
        "flashattn run --q x.safetensors --k x.safetensors --v x.safetensors --out y.safetensors --lse y.safetensors",
        "flashattn run --q q.npy --k k.npy --v v.npy --grad-o do.npy --grad-q dq.npy --grad-k dk.npy --grad-v dv.npy",
        "flashattn run --q q.npy --k k.npy --v v.npy --causal --window 1023 --softcap 30 --sinks sinks.npy --out o.npy",
        "flashattn run --q q.npy --k k.npy --v v.npy --seq-lens 100,37,512 --causal --alibi standard --out o.npy",
    ];

    [Option('q', "query", Required = true, MetaValue = "FILE", HelpText = "Queries (also --q): (batch, seq, heads, dim), (seq, heads, dim) or (seq, dim).")]
    public string Q { get; set; } = string.Empty;

    [Option('k', "key", Required = true, MetaValue = "FILE",
        HelpText = "Keys (also --k); heads may be a divisor of the queries' heads (grouped-query attention).")]
    public string K { get; set; } = string.Empty;

    [Option('v', "value", Required = true, MetaValue = "FILE", HelpText = "Values (also --v); their dim may differ from that of queries and keys.")]
    public string V { get; set; } = string.Empty;

    [Option("out", MetaValue = "FILE", HelpText = "Receives O, shaped like the queries, of their element type.")]
    public string? Out { get; set; }

    [Option("lse", MetaValue = "FILE",
        HelpText = "Receives the log-sum-exp of every row: natural logarithm, float32, (batch, heads, seq) whatever the layout.")]
    public string? Lse { get; set; }

    [Option("grad-o", MetaValue = "FILE", HelpText = "Gradient of O; with it the backward pass runs too.")]
    public string? GradO { get; set; }

    [Option("grad-lse", MetaValue = "FILE", HelpText = "Gradient of the log-sum-exp, float32, (batch, heads, seq); only with --grad-o.")]
    public string? GradLse { get; set; }

    [Option("grad-q", MetaValue = "FILE", HelpText = "Receives the gradient of the queries.")]
    public string? GradQ { get; set; }

    [Option("grad-k", MetaValue = "FILE", HelpText = "Receives the gradient of the keys.")]
    public string? GradK { get; set; }

    [Option("grad-v", MetaValue = "FILE", HelpText = "Receives the gradient of the values.")]
    public string? GradV { get; set; }

    [Option("q-name", Default = "q", MetaValue = "NAME", HelpText = "Name of the queries in a .safetensors file.")]
    public string QName { get; set; } = "q";

    [Option("k-name", Default = "k", MetaValue = "NAME", HelpText = "Name of the keys in a .safetensors file.")]
    public string KName { get; set; } = "k";

    [Option("v-name", Default = "v", MetaValue = "NAME", HelpText = "Name of the values in a .safetensors file.")]
    public string VName { get; set; } = "v";

    [Option("grad-o-name", Default = "grad_o", MetaValue = "NAME", HelpText = "Name of the gradient of O in a .safetensors file.")]
    public string GradOName { get; set; } = "grad_o";

    [Option("grad-lse-name", Default = "grad_lse", MetaValue = "NAME", HelpText = "Name of the gradient of the log-sum-exp in a .safetensors file.")]
    public string GradLseName { get; set; } = "grad_lse";

    [Option("layout", Default = "bshd", MetaValue = "ORDER",
        HelpText = "Order of the dimensions in all files: bshd (batch, seq, heads, dim) or bhsd (batch, heads, seq, dim).")]
    public string Layout { get; set; } = "bshd";

    [Option("dtype", MetaValue = "TYPE",
        HelpText = "Convert inputs to float32, float16 or bfloat16 first (needed for float64 files and for files of different types).")]
    public string? DType { get; set; }

    [Option("bf16", HelpText = "Read '<u2' and '<V2' elements of .npy files as bfloat16, which NumPy has no type for.")]
    public bool BFloat16 { get; set; }

    [Option("causal", HelpText = "A query sees only keys up to its own position; see --causal-alignment.")]
    public bool Causal { get; set; }

    [Option("causal-alignment", MetaValue = "CORNER",
        HelpText = "Implies --causal. bottom-right (default): the last query sees every key; top-left: query i sees keys 0 to i.")]
    public string? CausalAlignment { get; set; }

    [Option("scale", MetaValue = "X", HelpText = "Factor on the scores (default 1/sqrt(dim)).")]
    public float? Scale { get; set; }

    [Option("deterministic", HelpText = "Bitwise equal gradients from run to run.")]
    public bool Deterministic { get; set; }

    [Option("kernel", Default = "auto", MetaValue = "FAMILY", HelpText = "Insist on a family of kernels: auto, cpu, sm80, sm90.")]
    public string Kernel { get; set; } = "auto";

    [Option("overwrite", HelpText = "Replace output files that exist.")]
    public bool Overwrite { get; set; }
}
