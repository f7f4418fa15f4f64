using System.Numerics.Tensors;

namespace FlashAttention;

/// <summary>The forward pass in float64. Arrays are in the order (batch, heads, sequence, head_dim).</summary>
internal sealed class ReferenceForward(ReferenceSizes sizes, AttentionOptions options, double[] q, double[] k, double[] v)
{
    private readonly double _scale = options.ScaleFor(sizes.HeadDim);

    public double[] O { get; } = new double[sizes.Batch * sizes.HeadsQ * sizes.LengthQ * sizes.HeadDimV];

    public double[] Lse { get; } = new double[sizes.Batch * sizes.HeadsQ * sizes.LengthQ];

    /// <summary>Computes one head of one batch entry.</summary>
    /// <param name="index">batch index · heads_q + query head.</param>
    public void ComputeHead(int index)
    {
        int kvIndex = (index / sizes.HeadsQ * sizes.HeadsKv) + (index % sizes.HeadsQ / sizes.GroupSize);
        double[] p = new double[sizes.LengthKv];
        for (int i = 0; i < sizes.LengthQ; ++i)
        {
            int row = (index * sizes.LengthQ) + i;
            int visible = (int)options.Mask.VisibleKeys(i, sizes.LengthQ, sizes.LengthKv);
            Span<double> probabilities = p.AsSpan(0, visible);
            ReadOnlySpan<double> query = q.AsSpan(row * sizes.HeadDim, sizes.HeadDim);
            Lse[row] = ReferenceSoftmax.Row(query, k.AsSpan(kvIndex * sizes.LengthKv * sizes.HeadDim), _scale, probabilities);
            Span<double> output = O.AsSpan(row * sizes.HeadDimV, sizes.HeadDimV);
            for (int j = 0; j < visible; ++j)
            {
                ReadOnlySpan<double> value = v.AsSpan(((kvIndex * sizes.LengthKv) + j) * sizes.HeadDimV, sizes.HeadDimV);
                TensorPrimitives.MultiplyAdd(value, probabilities[j], output, output);
            }
        }
    }
}

/// <summary>The backward pass in float64. Arrays are in the order (batch, heads, sequence, head_dim).</summary>
/// <remarks>With P = softmax(S) and dP = dO Vᵀ: dV = Pᵀ dO, dS = P ∘ (dP − rowsum(P ∘ dP) + dLse), dQ = scale · dS K, dK = scale · dSᵀ Q.</remarks>
internal sealed class ReferenceBackward(
    ReferenceSizes sizes, AttentionOptions options, double[] q, double[] k, double[] v, double[] gradO, float[] gradLse)
{
    private readonly double _scale = options.ScaleFor(sizes.HeadDim);

    public double[] GradQ { get; } = new double[q.Length];

    public double[] GradK { get; } = new double[k.Length];

    public double[] GradV { get; } = new double[v.Length];

    /// <summary>Computes one kv head of one batch entry with all query heads that read it.</summary>
    /// <param name="kvIndex">batch index · heads_kv + kv head.</param>
    public void ComputeGroup(int kvIndex)
    {
        double[] p = new double[sizes.LengthKv];
        double[] gradP = new double[sizes.LengthKv];
        for (int head = 0; head < sizes.GroupSize; ++head)
        {
            // (b · heads_kv + kv head) · group + head within the group = b · heads_q + query head.
            int index = (kvIndex * sizes.GroupSize) + head;
            for (int i = 0; i < sizes.LengthQ; ++i)
            {
                int visible = (int)options.Mask.VisibleKeys(i, sizes.LengthQ, sizes.LengthKv);
                ComputeRow((index * sizes.LengthQ) + i, kvIndex, p.AsSpan(0, visible), gradP.AsSpan(0, visible));
            }
        }
    }

    private void ComputeRow(int row, int kvIndex, Span<double> p, Span<double> gradP)
    {
        ReadOnlySpan<double> query = q.AsSpan(row * sizes.HeadDim, sizes.HeadDim);
        ReadOnlySpan<double> gradOutput = gradO.AsSpan(row * sizes.HeadDimV, sizes.HeadDimV);
        Span<double> gradQuery = GradQ.AsSpan(row * sizes.HeadDim, sizes.HeadDim);
        int firstKey = kvIndex * sizes.LengthKv;
        ReferenceSoftmax.Row(query, k.AsSpan(firstKey * sizes.HeadDim), _scale, p);
        for (int j = 0; j < p.Length; ++j)
        {
            gradP[j] = TensorPrimitives.Dot(gradOutput, v.AsSpan((firstKey + j) * sizes.HeadDimV, sizes.HeadDimV));
        }

        double mean = TensorPrimitives.Dot<double>(p, gradP);
        double fromLse = gradLse.Length == 0 ? 0 : gradLse[row];
        for (int j = 0; j < p.Length; ++j)
        {
            double gradScore = _scale * p[j] * (gradP[j] - mean + fromLse);
            int keyStart = (firstKey + j) * sizes.HeadDim;
            Span<double> gradKey = GradK.AsSpan(keyStart, sizes.HeadDim);
            Span<double> gradValue = GradV.AsSpan((firstKey + j) * sizes.HeadDimV, sizes.HeadDimV);
            TensorPrimitives.MultiplyAdd(k.AsSpan(keyStart, sizes.HeadDim), gradScore, gradQuery, gradQuery);
            TensorPrimitives.MultiplyAdd(query, gradScore, gradKey, gradKey);
            TensorPrimitives.MultiplyAdd(gradOutput, p[j], gradValue, gradValue);
        }
    }
}

/// <summary>One row of softmax(scale · q Kᵀ) in float64.</summary>
internal static class ReferenceSoftmax
{
    /// <summary>Fills the probabilities of the visible keys, which are the first ones, and returns the natural logarithm of the sum of exp(score).</summary>
    /// <param name="query">One query.</param>
    /// <param name="keys">Keys of its kv head, one after the other.</param>
    /// <param name="scale">Factor on the dot product.</param>
    /// <param name="probabilities">Receives one probability for each visible key.</param>
    public static double Row(ReadOnlySpan<double> query, ReadOnlySpan<double> keys, double scale, Span<double> probabilities)
    {
        double largest = double.NegativeInfinity;
        for (int j = 0; j < probabilities.Length; ++j)
        {
            probabilities[j] = scale * TensorPrimitives.Dot(query, keys.Slice(j * query.Length, query.Length));
            largest = Math.Max(largest, probabilities[j]);
        }

        double sum = 0;
        for (int j = 0; j < probabilities.Length; ++j)
        {
            probabilities[j] = Math.Exp(probabilities[j] - largest);
            sum += probabilities[j];
        }

        TensorPrimitives.Divide(probabilities, sum, probabilities);

        // An infinite largest score makes the sum NaN, but its logarithm is known from the definition.
        return double.IsInfinity(largest) ? largest : largest + Math.Log(sum);
    }
}
