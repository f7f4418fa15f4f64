namespace FlashAttention;

/// <summary>Order of the elements of a tensor in memory; head_dim is contiguous in both.</summary>
public enum TensorLayout
{
    /// <summary>(batch, sequence, heads, head_dim): each token's heads side by side.</summary>
    BatchSequenceHeads,

    /// <summary>(batch, heads, sequence, head_dim): each head's tokens side by side.</summary>
    BatchHeadsSequence,
}

/// <summary>Sizes of a tensor in elements. The order is always the same, whatever the memory layout.</summary>
/// <param name="Batch">Number of batch entries.</param>
/// <param name="Sequence">Number of queries or keys.</param>
/// <param name="Heads">Number of heads.</param>
/// <param name="HeadDim">Elements of one head's vector.</param>
public readonly record struct TensorShape(long Batch, long Sequence, long Heads, long HeadDim)
{
    /// <summary>Number of elements.</summary>
    /// <exception cref="OverflowException">The number does not fit 64 bits.</exception>
    public long ElementCount => Batch == 0 || Sequence == 0 || Heads == 0 || HeadDim == 0 ? 0 : Product(Product(Product(Batch, Sequence), Heads), HeadDim);

    /// <summary>Strides of a tensor of this shape without gaps.</summary>
    /// <param name="layout">Order in memory.</param>
    /// <returns>Strides in elements.</returns>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="layout"/> is no defined value.</exception>
    /// <exception cref="OverflowException">The tensor's extent does not fit 64 bits.</exception>
    public TensorStrides GetStrides(TensorLayout layout) => layout switch
    {
        TensorLayout.BatchSequenceHeads => new TensorStrides(Product(Sequence, Product(Heads, HeadDim)), Product(Heads, HeadDim), HeadDim, 1),
        TensorLayout.BatchHeadsSequence => new TensorStrides(Product(Heads, Product(Sequence, HeadDim)), HeadDim, Product(Sequence, HeadDim), 1),
        _ => throw new ArgumentOutOfRangeException(nameof(layout), layout, "layout: expected BatchSequenceHeads or BatchHeadsSequence."),
    };

    /// <summary>Sizes in brackets.</summary>
    /// <returns>Text.</returns>
    public override string ToString() => $"({Batch}, {Sequence}, {Heads}, {HeadDim})";

    /// <summary>Size in bytes of a tensor of this shape without gaps.</summary>
    internal long GetSizeBytes(int elementBytes) => Product(ElementCount, elementBytes);

    private long Product(long left, long right)
    {
        long low = unchecked(left * right);
        return Math.BigMul(left, right) == low
            ? low
            : throw new OverflowException($"sizes: expected a tensor of less than 2^63 elements and bytes, got {this}.");
    }
}

/// <summary>Distances between neighbours along each dimension, in elements. The order is always the same, whatever the memory layout.</summary>
/// <param name="Batch">Between batch entries.</param>
/// <param name="Sequence">Between queries or keys.</param>
/// <param name="Heads">Between heads.</param>
/// <param name="HeadDim">Between elements of a head's vector; must be 1 unless there is at most one.</param>
public readonly record struct TensorStrides(long Batch, long Sequence, long Heads, long HeadDim)
{
    /// <summary>Strides in brackets.</summary>
    /// <returns>Text.</returns>
    public override string ToString() => $"({Batch}, {Sequence}, {Heads}, {HeadDim})";
}
