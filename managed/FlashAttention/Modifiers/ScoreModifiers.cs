namespace FlashAttention;

/// <summary>Attention with linear biases: slope · |position − key| is taken off each score.</summary>
/// <remarks>Press et al., 2021, arXiv 2108.12409. The position of a query is that of the mask's alignment, top-left without one; a bottom-right position
/// without
/// a causal mask is <c>Mask.Window(null, null, Alignment.BottomRight)</c>.</remarks>
public sealed record Alibi
{
    /// <summary>Slopes of the heads.</summary>
    /// <param name="slopes">heads_q numbers; with <see cref="PerBatch"/> batch · heads_q, the batch entry (or sequence) being the slower one.</param>
    /// <exception cref="ArgumentNullException"><paramref name="slopes"/> is null.</exception>
    public Alibi(AttentionVector<float> slopes)
    {
        ArgumentNullException.ThrowIfNull(slopes);
        Slopes = slopes;
    }

    /// <summary>Slopes of the heads.</summary>
    public AttentionVector<float> Slopes { get; }

    /// <summary>Whether each batch entry has its own slopes. Default: false.</summary>
    public bool PerBatch { get; init; }

    /// <summary>The slopes of the paper: a geometric sequence that starts at its ratio, 2^(−8/n) for n heads; where n is no power of two, the sequence of the
    /// next lower one and
    /// every other number of that of twice as many.</summary>
    /// <param name="heads">Number of query heads, at least 1.</param>
    /// <returns>One slope for each head.</returns>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="heads"/> is less than 1.</exception>
    public static float[] StandardSlopes(int heads)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(heads, 1);
        int whole = 1 << System.Numerics.BitOperations.Log2((uint)heads);
        float[] slopes = new float[heads];
        for (int h = 0; h < heads; ++h)
        {
            slopes[h] = (float)(h < whole ? Math.Pow(2, -8.0 * (h + 1) / whole) : Math.Pow(2, -4.0 * ((2 * (h - whole)) + 1) / whole));
        }

        return slopes;
    }
}

/// <summary>A number added to each score, with a gradient if it is asked for (<see cref="ModifierGradients.Bias"/>).</summary>
public sealed record Bias
{
    /// <summary>Makes a bias.</summary>
    /// <param name="values">(batch, heads_q, len_q, len_kv), the last dimension contiguous; a size of 1 in one of the first three dimensions broadcasts.
    /// float or the element type of q.
    /// −∞ hides a pair.</param>
    /// <exception cref="ArgumentNullException"><paramref name="values"/> is null.</exception>
    public Bias(AttentionTensor values)
    {
        ArgumentNullException.ThrowIfNull(values);
        Values = values;
    }

    /// <summary>The numbers.</summary>
    public AttentionTensor Values { get; }
}

/// <summary>Attention sinks: for each query head the logit of a further key whose value is 0, with a gradient if it is asked for
/// (<see cref="ModifierGradients.Sinks"/>).</summary>
/// <remarks>The probabilities of a row then sum to less than 1, and lse contains the sink. A query that sees no key has o = 0 and lse = its head's
/// sink.</remarks>
public sealed record Sinks
{
    /// <summary>Makes sinks.</summary>
    /// <param name="logits">heads_q numbers.</param>
    /// <exception cref="ArgumentNullException"><paramref name="logits"/> is null.</exception>
    public Sinks(AttentionVector<float> logits)
    {
        ArgumentNullException.ThrowIfNull(logits);
        Logits = logits;
    }

    /// <summary>The logits.</summary>
    public AttentionVector<float> Logits { get; }
}

/// <summary>A boolean mask: a query sees a key only where it is not 0.</summary>
public sealed record VisibleMask
{
    /// <summary>Makes a mask.</summary>
    /// <param name="values">Bytes or bools, (batch, heads_q, len_q, len_kv), the last dimension contiguous; a size of 1 in one of the first three dimensions
    /// broadcasts.</param>
    /// <exception cref="ArgumentNullException"><paramref name="values"/> is null.</exception>
    public VisibleMask(AttentionTensor values)
    {
        ArgumentNullException.ThrowIfNull(values);
        Values = values;
    }

    /// <summary>The mask.</summary>
    public AttentionTensor Values { get; }

    /// <summary>A key-padding mask.</summary>
    /// <param name="keys">For each batch entry one bool for each key, true where the key counts.</param>
    /// <param name="batch">Number of batch entries.</param>
    /// <returns>A mask of sizes (batch, 1, 1, len_kv).</returns>
    /// <exception cref="ArgumentException">The number of bools is no multiple of <paramref name="batch"/>.</exception>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="batch"/> is less than 1.</exception>
    public static VisibleMask Keys(Memory<bool> keys, long batch)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(batch, 1);
        return keys.Length % batch == 0
            ? new VisibleMask(AttentionTensor.From(keys, new TensorShape(batch, 1, 1, keys.Length / batch)))
            : throw new ArgumentException($"keys: expected a multiple of batch ({batch}) elements, got {keys.Length}.", nameof(keys));
    }
}

/// <summary>A block-sparse mask: pairs in a block whose entry is 0 are hidden, and no work is spent on them.</summary>
public sealed record BlockMask
{
    /// <summary>Makes a mask.</summary>
    /// <param name="blocks">Bytes or bools, (batch, heads_q, ⌈len_q / blockQ⌉, ⌈len_kv / blockKv⌉); the first two sizes may be 1.</param>
    /// <param name="blockQ">Queries in a block, a positive multiple of 16.</param>
    /// <param name="blockKv">Keys in a block, a positive multiple of 16.</param>
    /// <exception cref="ArgumentNullException"><paramref name="blocks"/> is null.</exception>
    public BlockMask(AttentionTensor blocks, int blockQ, int blockKv)
    {
        ArgumentNullException.ThrowIfNull(blocks);
        (Blocks, BlockQ, BlockKv) = (blocks, blockQ, blockKv);
    }

    /// <summary>Which blocks count.</summary>
    public AttentionTensor Blocks { get; }

    /// <summary>Queries in a block.</summary>
    public int BlockQ { get; }

    /// <summary>Keys in a block.</summary>
    public int BlockKv { get; }
}

/// <summary>Dropout of probabilities: o = Σ keep / (1 − rate) · p · v; lse is that without dropout.</summary>
/// <param name="Rate">Probability that a pair is dropped, in [0, 1).</param>
/// <param name="Seed">Key of the generator.</param>
/// <param name="Offset">Distinguishes calls with one seed.</param>
/// <remarks>Which pairs are kept depends on seed, offset, batch entry (or sequence), query head, query and key alone and is the same on every device, in both
/// passes:
/// <see cref="Attention.DropoutMask"/>. The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).</remarks>
public readonly record struct Dropout(float Rate, ulong Seed, uint Offset = 0);

/// <summary>Where the backward pass puts the gradients of what modifies the scores.</summary>
/// <remarks>Sums over broadcast dimensions. Every element is written.</remarks>
public sealed record ModifierGradients
{
    /// <summary>Neither is wanted.</summary>
    public static ModifierGradients None { get; } = new();

    /// <summary>Gradient of <see cref="AttentionOptions.Bias"/>, of its sizes and element type; null if not wanted.</summary>
    public AttentionTensor? Bias { get; init; }

    /// <summary>Gradient of <see cref="AttentionOptions.Sinks"/>, heads_q numbers; null if not wanted.</summary>
    public AttentionVector<float>? Sinks { get; init; }
}
