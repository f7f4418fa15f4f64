using CommandLine;

namespace FlashAttention.Cli.Options;

/// <summary>Mask and score variants that are numbers: what run, bench and explain take.</summary>
internal abstract class ScoreOptions : DeviceOptions
{
    [Option("window", MetaValue = "LEFT[,RIGHT]",
        HelpText = "A query sees LEFT keys before its position and RIGHT behind it; numbers or 'all' (default of RIGHT: all; a causal mask hides them).")]
    public string? Window { get; set; }

    [Option("chunk", MetaValue = "N", HelpText = "A query sees only keys of its own chunk of N positions.")]
    public long? Chunk { get; set; }

    [Option("alignment", MetaValue = "CORNER",
        HelpText = "Where position 0 of --window and --chunk lies without a causal mask: bottom-right (default) or top-left.")]
    public string? Alignment { get; set; }

    [Option("softcap", MetaValue = "X", HelpText = "Bounds the scores: X * tanh(score / X).")]
    public float? Softcap { get; set; }

    [Option("dropout", MetaValue = "P", HelpText = "Drops probabilities with probability P, 0 to 1; which ones depends on --dropout-seed alone.")]
    public float? Dropout { get; set; }

    [Option("dropout-seed", MetaValue = "N", HelpText = "Seed of --dropout (default 0).")]
    public long? DropoutSeed { get; set; }

    [Option("seq-lens", Separator = ',', MetaValue = "N,N...", HelpText = "Sequences of these lengths lie one behind the other in a batch of 1.")]
    public IEnumerable<int> SequenceLengths { get; set; } = [];

    [Option("seq-lens-kv", Separator = ',', MetaValue = "N,N...", HelpText = "The same for keys and values (default: as --seq-lens).")]
    public IEnumerable<int> SequenceLengthsKv { get; set; } = [];
}

/// <summary>Variants with tensors that the command makes up: what bench and explain take.</summary>
internal abstract class ShapeScoreOptions : ScoreOptions
{
    [Option("with", Separator = ',', MetaValue = "NAME,...",
        HelpText = "Variants with tensors: alibi (standard slopes), bias (per head), visible (boolean, one for all), block-mask (blocks of 128), sinks.")]
    public IEnumerable<string> With { get; set; } = [];
}

/// <summary>Variants with tensors from files, and their gradients.</summary>
internal abstract class FileScoreOptions : ScoreOptions
{
    [Option("alibi", MetaValue = "FILE", HelpText = "ALiBi slopes, (heads) or (batch, heads); or 'standard' for those of the paper.")]
    public string? Alibi { get; set; }

    [Option("bias", MetaValue = "FILE",
        HelpText = "Added to the scores: (batch, heads, queries, keys) whatever the layout, sizes but the last may be 1 or leading ones absent.")]
    public string? Bias { get; set; }

    [Option("visible", MetaValue = "FILE", HelpText = "A query sees a key only where this is not 0: bool or uint8, sizes as of --bias.")]
    public string? Visible { get; set; }

    [Option("block-mask", MetaValue = "FILE",
        HelpText = "Blocks of queries and keys that are computed: bool or uint8, (batch or 1, heads or 1, blocks, blocks).")]
    public string? BlockMask { get; set; }

    [Option("block-size", MetaValue = "Q,KV", HelpText = "Queries and keys of a block of --block-mask, multiples of 16 (default 128,128).")]
    public string? BlockSize { get; set; }

    [Option("sinks", MetaValue = "FILE", HelpText = "Logits of a further key without value, (heads).")]
    public string? Sinks { get; set; }

    [Option("used-q", Separator = ',', MetaValue = "N,N...", HelpText = "Queries that count in each sequence; the others are padding.")]
    public IEnumerable<int> UsedQ { get; set; } = [];

    [Option("used-kv", Separator = ',', MetaValue = "N,N...", HelpText = "Keys that count in each sequence.")]
    public IEnumerable<int> UsedKv { get; set; } = [];

    [Option("left-padded", HelpText = "The padding of --used-q and --used-kv comes first.")]
    public bool LeftPadded { get; set; }

    [Option("grad-bias", MetaValue = "FILE", HelpText = "Receives the gradient of --bias, of its sizes and element type.")]
    public string? GradBias { get; set; }

    [Option("grad-sinks", MetaValue = "FILE", HelpText = "Receives the gradient of --sinks.")]
    public string? GradSinks { get; set; }
}
