namespace FlashAttention.Tests;

/// <summary>Where ALiBi slopes differ.</summary>
public enum AlibiKind
{
    None,
    PerHead,
    PerBatch,
}

/// <summary>Which dimensions of a tensor over pairs (batch, heads, queries, keys) are broadcast.</summary>
public enum PairShape
{
    /// <summary>There is no such tensor.</summary>
    None,

    /// <summary>(batch, heads, queries, keys).</summary>
    Full,

    /// <summary>(1, 1, queries, keys).</summary>
    Shared,

    /// <summary>(batch, 1, 1, keys): key padding.</summary>
    Keys,

    /// <summary>(1, heads, 1, keys).</summary>
    HeadKeys,

    /// <summary>(1, heads, queries, keys).</summary>
    Heads,
}

/// <summary>How sequences of different lengths lie in the tensors.</summary>
public enum SequenceKind
{
    None,

    /// <summary>One per batch entry, used lengths of q and of k and v.</summary>
    Used,

    /// <summary>One per batch entry, all queries, used lengths of k and v.</summary>
    UsedKv,

    /// <summary>As <see cref="Used"/>, at the end of their places.</summary>
    LeftPadded,

    /// <summary>One behind the other.</summary>
    Packed,

    /// <summary>One behind the other with room in each place.</summary>
    PackedUsed,

    /// <summary>As <see cref="PackedUsed"/>, at the end of their places.</summary>
    PackedLeft,
}

/// <summary>The mask and score variants of a case. Everything off by default.</summary>
public sealed record Variants
{
    public static readonly Variants None = new();

    /// <summary>Reach of a sliding window to both sides, -1 for all; null: no window. Its alignment is that of <see cref="ProblemCase.Mask"/>, top-left
    /// without one; with a
    /// causal mask it replaces it.</summary>
    public (int Left, int Right)? Window { get; init; }

    /// <summary>Keys in a chunk; 0: none.</summary>
    public int Chunk { get; init; }

    /// <summary>0: none.</summary>
    public float Softcap { get; init; }
    public AlibiKind Alibi { get; init; }
    public PairShape Bias { get; init; }

    /// <summary>The bias is fp32, whatever the dtype.</summary>
    public bool BiasFloat32 { get; init; }
    public PairShape Visible { get; init; }

    /// <summary>Extents of a block; null: no block mask.</summary>
    public (int Q, int Kv)? Block { get; init; }

    /// <summary>Every head has its own block mask.</summary>
    public bool BlockPerHead { get; init; }
    public bool Sinks { get; init; }

    /// <summary>0: none.</summary>
    public float Dropout { get; init; }
    public SequenceKind Sequences { get; init; }

    public bool IsPacked => Sequences is SequenceKind.Packed or SequenceKind.PackedUsed or SequenceKind.PackedLeft;

    public bool IsLeftPadded => Sequences is SequenceKind.LeftPadded or SequenceKind.PackedLeft;

    /// <summary>The names that a refusal may give, as in the library's messages.</summary>
    public IEnumerable<string> Names()
    {
        (bool On, string Name)[] all =
        [
            (Window is not null, "a sliding window"), (Chunk > 0, "attention chunks"), (Softcap > 0, "softcap"), (Alibi != AlibiKind.None, "ALiBi slopes"),
            (Bias != PairShape.None, "an additive bias"), (Bias != PairShape.None, "the gradient of the bias"), (Visible != PairShape.None, "a boolean mask"),
            (Block is not null, "a block mask"), (Sinks, "attention sinks"), (Dropout > 0, "dropout"),
            (Sequences != SequenceKind.None, "sequences of different lengths"),
        ];
        return all.Where(variant => variant.On).Select(variant => variant.Name);
    }

    public override string ToString()
    {
        (bool On, string Text)[] parts =
        [
            (Window is not null, $"window{Window?.Left}..{Window?.Right}"), (Chunk > 0, $"chunk{Chunk}"),
            (Softcap > 0, FormattableString.Invariant($"softcap{Softcap}")),
            (Alibi != AlibiKind.None, $"alibi-{Alibi}"), (Bias != PairShape.None, $"bias-{Bias}{(BiasFloat32 ? "-f32" : "")}"),
            (Visible != PairShape.None, $"visible-{Visible}"), (Block is not null, $"block{Block?.Q}x{Block?.Kv}{(BlockPerHead ? "-heads" : "")}"),
            (Sinks, "sinks"),
            (Dropout > 0, FormattableString.Invariant($"dropout{Dropout}")), (Sequences != SequenceKind.None, Sequences.ToString()),
        ];
        return string.Concat(parts.Where(part => part.On).Select(part => " " + part.Text));
    }
}
