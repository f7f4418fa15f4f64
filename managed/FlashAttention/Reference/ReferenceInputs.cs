using System.Numerics.Tensors;

namespace FlashAttention;

/// <summary>Checked problem sizes of the reference implementations.</summary>
internal readonly record struct ReferenceSizes(int Batch, int LengthQ, int LengthKv, int HeadsQ, int HeadsKv, int HeadDim, int HeadDimV)
{
    public int GroupSize => HeadsKv == 0 ? 0 : HeadsQ / HeadsKv;

    public static ReferenceSizes From<T>(in ReadOnlyTensorSpan<T> q, in ReadOnlyTensorSpan<T> k, in ReadOnlyTensorSpan<T> v)
        where T : unmanaged
    {
        Ensure.Rank4(q.Rank, nameof(q));
        Ensure.Rank4(k.Rank, nameof(k));
        Ensure.Rank4(v.Rank, nameof(v));
        ReferenceSizes sizes = new(
            checked((int)q.Lengths[0]), checked((int)q.Lengths[1]), checked((int)k.Lengths[1]), checked((int)q.Lengths[2]), checked((int)k.Lengths[2]),
            checked((int)q.Lengths[3]), checked((int)v.Lengths[3]));
        CheckShape(k.Lengths, [sizes.Batch, sizes.LengthKv, sizes.HeadsKv, sizes.HeadDim], nameof(k));
        CheckShape(v.Lengths, [sizes.Batch, sizes.LengthKv, sizes.HeadsKv, sizes.HeadDimV], nameof(v));
        bool divides = sizes.HeadsKv == 0 ? sizes.HeadsQ == 0 : sizes.HeadsQ % sizes.HeadsKv == 0;
        return divides ? sizes : throw new ArgumentException($"k: expected a number of heads that divides q's {sizes.HeadsQ}, got {sizes.HeadsKv}.", nameof(k));
    }

    public void CheckGradients<T>(in ReadOnlyTensorSpan<T> gradO, ReadOnlySpan<float> gradLse)
        where T : unmanaged
    {
        Ensure.Rank4(gradO.Rank, nameof(gradO));
        CheckShape(gradO.Lengths, [Batch, LengthQ, HeadsQ, HeadDimV], nameof(gradO));
        if (!gradLse.IsEmpty)
        {
            Ensure.LseLength(gradLse.Length, Batch, HeadsQ, LengthQ, nameof(gradLse));
        }
    }

    private static void CheckShape(ReadOnlySpan<nint> actual, ReadOnlySpan<nint> expected, string name)
    {
        if (!actual.SequenceEqual(expected))
        {
            throw new ArgumentException(
                $"{name}: expected sizes ({string.Join(", ", expected.ToArray())}), got ({string.Join(", ", actual.ToArray())}).", name);
        }
    }
}

/// <summary>Copies between strided tensors and dense arrays in the order (batch, heads, sequence, head_dim), in which a head is one contiguous block.</summary>
internal static class ReferenceLayout
{
    /// <summary>Reads a tensor of logical order (batch, sequence, heads, head_dim), whatever its strides.</summary>
    public static unsafe double[] ToHeadMajor<T>(in ReadOnlyTensorSpan<T> tensor)
        where T : unmanaged
    {
        int batch = (int)tensor.Lengths[0], sequence = (int)tensor.Lengths[1], heads = (int)tensor.Lengths[2], headDim = (int)tensor.Lengths[3];
        ReadOnlySpan<nint> strides = tensor.Strides;
        double[] result = new double[checked((int)tensor.FlattenedLength)];
        int next = 0;
        fixed (T* data = tensor)
        {
            for (int b = 0; b < batch; ++b)
            {
                for (int h = 0; h < heads; ++h)
                {
                    for (int s = 0; s < sequence; ++s)
                    {
                        T* row = data + (b * strides[0]) + (s * strides[1]) + (h * strides[2]);
                        for (int c = 0; c < headDim; ++c)
                        {
                            result[next++] = ElementType<T>.ToDouble(row[c * strides[3]]);
                        }
                    }
                }
            }
        }

        return result;
    }

    /// <summary>From (batch, heads, sequence, head_dim) to (batch, sequence, heads, head_dim).</summary>
    public static double[] ToSequenceMajor(double[] source, int batch, int heads, int sequence, int headDim)
    {
        double[] result = new double[source.Length];
        for (int b = 0; b < batch; ++b)
        {
            for (int h = 0; h < heads; ++h)
            {
                for (int s = 0; s < sequence; ++s)
                {
                    int from = (((b * heads) + h) * sequence + s) * headDim;
                    int to = (((b * sequence) + s) * heads + h) * headDim;
                    source.AsSpan(from, headDim).CopyTo(result.AsSpan(to, headDim));
                }
            }
        }

        return result;
    }

    public static float[] ToSingle(double[] source)
    {
        float[] result = new float[source.Length];
        TensorPrimitives.ConvertTruncating<double, float>(source, result);
        return result;
    }

    public static double[] ToDouble(float[] source)
    {
        double[] result = new double[source.Length];
        TensorPrimitives.ConvertTruncating<float, double>(source, result);
        return result;
    }
}
