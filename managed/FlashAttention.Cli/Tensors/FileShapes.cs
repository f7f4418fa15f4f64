using FlashAttention.Cli.Files;

namespace FlashAttention.Cli.Tensors;

/// <summary>Between the sizes in a file, of rank 4, 3 or 2, and the library's (batch, sequence, heads, head_dim).</summary>
internal static class FileShapes
{
    public static TensorShape ToLogical(string label, long[] shape, TensorLayout layout)
    {
        bool heads = layout == TensorLayout.BatchHeadsSequence;
        return shape switch
        {
            [long b, long x, long y, long d] => heads ? new TensorShape(b, y, x, d) : new TensorShape(b, x, y, d),
            [long x, long y, long d] => heads ? new TensorShape(1, y, x, d) : new TensorShape(1, x, y, d),
            [long s, long d] => new TensorShape(1, s, 1, d),
            _ => throw CliException.Usage($"{label}: shape {StoredTypes.FormatShape(shape)} has rank {shape.Length}; "
                + (heads ? "expected 4 (batch, heads, seq, dim), 3 (heads, seq, dim)" : "expected 4 (batch, seq, heads, dim), 3 (seq, heads, dim)")
                + " or 2 (seq, dim)"),
        };
    }

    public static long[] FromLogical(TensorShape shape, TensorLayout layout, int rank)
    {
        (long first, long second) = layout == TensorLayout.BatchHeadsSequence ? (shape.Heads, shape.Sequence) : (shape.Sequence, shape.Heads);
        return rank switch
        {
            4 => [shape.Batch, first, second, shape.HeadDim],
            3 => [first, second, shape.HeadDim],
            _ => [shape.Sequence, shape.HeadDim],
        };
    }

    /// <summary>Sizes of the log-sum-exp in a file: (batch, heads, seq), (heads, seq) or (seq).</summary>
    public static long[] Lse(TensorShape q, int rank) => rank switch
    {
        4 => [q.Batch, q.Heads, q.Sequence],
        3 => [q.Heads, q.Sequence],
        _ => [q.Sequence],
    };
}
