namespace FlashAttention;

/// <summary>Sequences of different lengths in one call: packed one behind the other, or one for each batch entry with unused positions.</summary>
/// <remarks>
/// <para>Positions of masks, and rows and columns of <see cref="Bias"/>, <see cref="VisibleMask"/> and <see cref="BlockMask"/>, then count within a sequence,
/// and their batch dimension
/// means the sequence. A position of q that belongs to no sequence is a query that sees no key; one of k and v is a key that no query sees.</para>
/// <para>The lengths are read on the device, so nothing waits for them. On the CPU values out of range are refused; on CUDA they are clamped.</para>
/// </remarks>
public sealed record Sequences
{
    private Sequences(long count) => Count = count;

    /// <summary>Number of sequences.</summary>
    public long Count { get; }

    /// <summary>Offsets of packed sequences along the sequence dimension of q, <see cref="Count"/> + 1 numbers; null if they are not packed.</summary>
    public AttentionVector<int>? OffsetsQ { get; private init; }

    /// <summary>As <see cref="OffsetsQ"/>, for k and v.</summary>
    public AttentionVector<int>? OffsetsKv { get; private init; }

    /// <summary>Upper bound of the places of one packed sequence of q.</summary>
    public long LongestQ { get; private init; }

    /// <summary>As <see cref="LongestQ"/>, for k and v.</summary>
    public long LongestKv { get; private init; }

    /// <summary>Used positions of each sequence of q, <see cref="Count"/> numbers; null: all.</summary>
    public AttentionVector<int>? UsedQ { get; init; }

    /// <summary>As <see cref="UsedQ"/>, for k and v.</summary>
    public AttentionVector<int>? UsedKv { get; init; }

    /// <summary>Whether a sequence uses the last positions of its place instead of the first. Default: false.</summary>
    public bool LeftPadded { get; init; }

    /// <summary>Sequences one behind the other in tensors of batch 1.</summary>
    /// <param name="offsetsQ">Count + 1 offsets along the sequence dimension of q, not decreasing, from 0: sequence b has the places [offsets[b], offsets[b +
    /// 1]).</param>
    /// <param name="offsetsKv">As many for k and v.</param>
    /// <param name="longestQ">Upper bound of the places of one sequence of q. Longer ones are cut on CUDA and refused on the CPU.</param>
    /// <param name="longestKv">As <paramref name="longestQ"/>, for k and v.</param>
    /// <returns>The description; <see cref="UsedQ"/> and <see cref="UsedKv"/> may leave room in each place.</returns>
    /// <exception cref="ArgumentNullException">Offsets are null.</exception>
    /// <exception cref="ArgumentException">Offsets of different lengths, or none.</exception>
    public static Sequences Packed(AttentionVector<int> offsetsQ, AttentionVector<int> offsetsKv, long longestQ, long longestKv)
    {
        ArgumentNullException.ThrowIfNull(offsetsQ);
        ArgumentNullException.ThrowIfNull(offsetsKv);
        Ensure.AtLeast(offsetsQ.Length, 1, nameof(offsetsQ));
        Ensure.Exactly(offsetsKv.Length, offsetsQ.Length, nameof(offsetsKv));
        return new Sequences(offsetsQ.Length - 1) { OffsetsQ = offsetsQ, OffsetsKv = offsetsKv, LongestQ = longestQ, LongestKv = longestKv };
    }

    /// <summary>One sequence for each batch entry, with unused positions behind it, or before it with <see cref="LeftPadded"/>.</summary>
    /// <param name="usedQ">Used positions of each sequence of q; null: all.</param>
    /// <param name="usedKv">Used positions of each sequence of k and v; null: all.</param>
    /// <returns>The description.</returns>
    /// <exception cref="ArgumentException">Both are null, or their lengths differ.</exception>
    public static Sequences Padded(AttentionVector<int>? usedQ, AttentionVector<int>? usedKv)
    {
        if ((usedQ ?? usedKv) is not { } any)
        {
            throw new ArgumentException("usedQ, usedKv: expected at least one of them, got null twice.", nameof(usedQ));
        }

        Ensure.Exactly((usedKv ?? any).Length, any.Length, nameof(usedKv));
        return new Sequences(any.Length) { UsedQ = usedQ, UsedKv = usedKv };
    }
}
