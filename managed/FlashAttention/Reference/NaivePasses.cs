using System.Numerics.Tensors;

namespace FlashAttention;

/// <summary>The forward pass of a plain implementation in T. Arrays are in the order (batch, heads, sequence, head_dim) and hold values of T.</summary>
internal sealed class NaiveForward<T>(ReferenceSizes sizes, AttentionOptions options, float[] q, float[] k, float[] v)
    where T : unmanaged
{
    private readonly float _scale = (float)options.ScaleFor(sizes.HeadDim);

    public float[] O { get; } = new float[sizes.Batch * sizes.HeadsQ * sizes.LengthQ * sizes.HeadDimV];

    public float[] Lse { get; } = new float[sizes.Batch * sizes.HeadsQ * sizes.LengthQ];

    /// <summary>Computes one head of one batch entry.</summary>
    /// <param name="index">batch index · heads_q + query head.</param>
    public void ComputeHead(int index)
    {
        int kvIndex = (index / sizes.HeadsQ * sizes.HeadsKv) + (index % sizes.HeadsQ / sizes.GroupSize);
        float[] scaledQuery = new float[sizes.HeadDim];
        float[] p = new float[sizes.LengthKv];
        for (int i = 0; i < sizes.LengthQ; ++i)
        {
            int row = (index * sizes.LengthQ) + i;
            Span<float> probabilities = p.AsSpan(0, (int)options.Mask.VisibleKeys(i, sizes.LengthQ, sizes.LengthKv));
            NaiveSoftmax<T>.ScaleQuery(q.AsSpan(row * sizes.HeadDim, sizes.HeadDim), _scale, scaledQuery);
            Lse[row] = NaiveSoftmax<T>.Row(scaledQuery, k.AsSpan(kvIndex * sizes.LengthKv * sizes.HeadDim), probabilities);
            Span<float> output = O.AsSpan(row * sizes.HeadDimV, sizes.HeadDimV);
            for (int j = 0; j < probabilities.Length; ++j)
            {
                ReadOnlySpan<float> value = v.AsSpan(((kvIndex * sizes.LengthKv) + j) * sizes.HeadDimV, sizes.HeadDimV);
                TensorPrimitives.MultiplyAdd(value, probabilities[j], output, output);
            }

            NaiveSoftmax<T>.RoundAll(output);
        }
    }
}

/// <summary>The backward pass of a plain implementation in T: what differentiating the plain forward pass step by step gives, each step's result rounded to
/// T.</summary>
internal sealed class NaiveBackward<T>(
    ReferenceSizes sizes, AttentionOptions options, float[] q, float[] k, float[] v, float[] gradO, float[] gradLse)
    where T : unmanaged
{
    private readonly float _scale = (float)options.ScaleFor(sizes.HeadDim);

    public float[] GradQ { get; } = new float[q.Length];

    public float[] GradK { get; } = new float[k.Length];

    public float[] GradV { get; } = new float[v.Length];

    /// <summary>Computes one kv head of one batch entry: each query head's gradients of k and v are rounded, then summed over the group and rounded
    /// again.</summary>
    /// <param name="kvIndex">batch index · heads_kv + kv head.</param>
    public void ComputeGroup(int kvIndex)
    {
        float[] headGradK = new float[sizes.LengthKv * sizes.HeadDim];
        float[] headGradV = new float[sizes.LengthKv * sizes.HeadDimV];
        Span<float> gradK = GradK.AsSpan(kvIndex * headGradK.Length, headGradK.Length);
        Span<float> gradV = GradV.AsSpan(kvIndex * headGradV.Length, headGradV.Length);
        for (int head = 0; head < sizes.GroupSize; ++head)
        {
            Array.Clear(headGradK);
            Array.Clear(headGradV);
            ComputeHead((kvIndex * sizes.GroupSize) + head, kvIndex, headGradK, headGradV);
            NaiveSoftmax<T>.RoundAll(headGradK);
            NaiveSoftmax<T>.RoundAll(headGradV);
            TensorPrimitives.Add(gradK, headGradK, gradK);
            TensorPrimitives.Add(gradV, headGradV, gradV);
        }

        NaiveSoftmax<T>.RoundAll(gradK);
        NaiveSoftmax<T>.RoundAll(gradV);
    }

    private void ComputeHead(int index, int kvIndex, float[] headGradK, float[] headGradV)
    {
        float[] scaledQuery = new float[sizes.HeadDim];
        float[] p = new float[sizes.LengthKv];
        float[] gradScore = new float[sizes.LengthKv];
        for (int i = 0; i < sizes.LengthQ; ++i)
        {
            int row = (index * sizes.LengthQ) + i;
            int visible = (int)options.Mask.VisibleKeys(i, sizes.LengthQ, sizes.LengthKv);
            NaiveSoftmax<T>.ScaleQuery(q.AsSpan(row * sizes.HeadDim, sizes.HeadDim), _scale, scaledQuery);
            ReadOnlySpan<float> keys = k.AsSpan(kvIndex * sizes.LengthKv * sizes.HeadDim);
            NaiveSoftmax<T>.Row(scaledQuery, keys, p.AsSpan(0, visible));
            ReadOnlySpan<float> gradOutput = gradO.AsSpan(row * sizes.HeadDimV, sizes.HeadDimV);
            ScoreGradients(gradOutput, v.AsSpan(kvIndex * sizes.LengthKv * sizes.HeadDimV), p.AsSpan(0, visible), row, gradScore.AsSpan(0, visible));

            Span<float> gradQuery = GradQ.AsSpan(row * sizes.HeadDim, sizes.HeadDim);
            for (int j = 0; j < visible; ++j)
            {
                Span<float> gradKey = headGradK.AsSpan(j * sizes.HeadDim, sizes.HeadDim);
                Span<float> gradValue = headGradV.AsSpan(j * sizes.HeadDimV, sizes.HeadDimV);
                TensorPrimitives.MultiplyAdd(keys.Slice(j * sizes.HeadDim, sizes.HeadDim), gradScore[j], gradQuery, gradQuery);
                TensorPrimitives.MultiplyAdd(scaledQuery, gradScore[j], gradKey, gradKey);
                TensorPrimitives.MultiplyAdd(gradOutput, p[j], gradValue, gradValue);
            }

            NaiveSoftmax<T>.RoundAll(gradQuery);
            TensorPrimitives.Multiply(gradQuery, _scale, gradQuery);
            NaiveSoftmax<T>.RoundAll(gradQuery);
        }
    }

    private void ScoreGradients(ReadOnlySpan<float> gradOutput, ReadOnlySpan<float> values, ReadOnlySpan<float> p, int row, Span<float> gradScore)
    {
        float mean = 0;
        for (int j = 0; j < p.Length; ++j)
        {
            gradScore[j] = ElementType<T>.Round(TensorPrimitives.Dot(gradOutput, values.Slice(j * sizes.HeadDimV, sizes.HeadDimV)));
            mean += p[j] * gradScore[j];
        }

        float fromLse = gradLse.Length == 0 ? 0 : gradLse[row];
        for (int j = 0; j < p.Length; ++j)
        {
            gradScore[j] = ElementType<T>.Round(p[j] * (gradScore[j] - mean + fromLse));
        }
    }
}

/// <summary>Pieces of a plain softmax(scale · q Kᵀ) in T: matrices rounded to T, sums in fp32.</summary>
internal static class NaiveSoftmax<T>
    where T : unmanaged
{
    public static void RoundAll(Span<float> values)
    {
        for (int i = 0; i < values.Length; ++i)
        {
            values[i] = ElementType<T>.Round(values[i]);
        }
    }

    public static void ScaleQuery(ReadOnlySpan<float> query, float scale, Span<float> scaledQuery)
    {
        TensorPrimitives.Multiply(query, scale, scaledQuery);
        RoundAll(scaledQuery);
    }

    /// <summary>Fills the rounded probabilities of the visible keys and returns the logarithm of the sum of exp(score), in fp32.</summary>
    public static float Row(ReadOnlySpan<float> scaledQuery, ReadOnlySpan<float> keys, Span<float> probabilities)
    {
        float largest = float.NegativeInfinity;
        for (int j = 0; j < probabilities.Length; ++j)
        {
            probabilities[j] = ElementType<T>.Round(TensorPrimitives.Dot(scaledQuery, keys.Slice(j * scaledQuery.Length, scaledQuery.Length)));
            largest = MathF.Max(largest, probabilities[j]);
        }

        float sum = 0;
        for (int j = 0; j < probabilities.Length; ++j)
        {
            probabilities[j] = MathF.Exp(probabilities[j] - largest);
            sum += probabilities[j];
        }

        for (int j = 0; j < probabilities.Length; ++j)
        {
            probabilities[j] = ElementType<T>.Round(probabilities[j] / sum);
        }

        return float.IsInfinity(largest) ? largest : largest + MathF.Log(sum);
    }
}
