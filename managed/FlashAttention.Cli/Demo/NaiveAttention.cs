using System.Numerics.Tensors;
using System.Runtime.InteropServices;

namespace FlashAttention.Cli.Demo;

/// <summary>Causal attention as the formula reads, in plain vectorised C#: a matrix of scores per head, a softmax over its rows, a product with V. One
/// sequence; all
/// tensors (position, head, component) in C order, fp32. All processors share the rows; masked scores are not computed.</summary>
internal static unsafe class NaiveAttention
{
    /// <summary>Bytes of the score matrices.</summary>
    public static long ScratchBytes(int length, int heads) => (long)heads * length * length * sizeof(float);

    /// <summary>Computes O.</summary>
    /// <param name="q">(length, heads, headDim).</param>
    /// <param name="k">(length, heads, headDim).</param>
    /// <param name="v">(length, heads, headDim).</param>
    /// <param name="o">(length, heads, headDim).</param>
    /// <param name="threads">Threads to use.</param>
    /// <param name="cancellation">Stops between two rows.</param>
    public static void Forward(float[] q, float[] k, float[] v, float[] o, int length, int heads, int headDim, int threads, CancellationToken cancellation)
    {
        float scale = 1f / MathF.Sqrt(headDim);
        float* scores = (float*)NativeMemory.Alloc((nuint)ScratchBytes(length, heads));
        try
        {
            ParallelOptions parallel = new() { MaxDegreeOfParallelism = threads, CancellationToken = cancellation };
            Parallel.For(0L, (long)heads * length, parallel, index =>
            {
                int head = (int)(index / length), row = (int)(index % length);
                Span<float> s = new(scores + index * length, row + 1);
                ReadOnlySpan<float> query = q.AsSpan((row * heads + head) * headDim, headDim);
                for (int j = 0; j < s.Length; j++)
                {
                    s[j] = scale * TensorPrimitives.Dot(query, k.AsSpan((j * heads + head) * headDim, headDim));
                }
                TensorPrimitives.Subtract(s, TensorPrimitives.Max<float>(s), s);
                TensorPrimitives.Exp(s, s);
                TensorPrimitives.Divide(s, TensorPrimitives.Sum<float>(s), s);
                Span<float> output = o.AsSpan((row * heads + head) * headDim, headDim);
                output.Clear();
                for (int j = 0; j < s.Length; j++)
                {
                    TensorPrimitives.MultiplyAdd(v.AsSpan((j * heads + head) * headDim, headDim), s[j], output, output);
                }
            });
        }
        finally
        {
            NativeMemory.Free(scores);
        }
    }
}

/// <summary>One row of causal attention in float64 from the definition.</summary>
internal static class ExactRow
{
    /// <summary>Weights of the visible keys; they sum to 1.</summary>
    public static double[] Weights(float[] q, float[] k, int row, int head, int heads, int headDim)
    {
        double[] weights = new double[row + 1];
        double maximum = double.NegativeInfinity;
        for (int j = 0; j <= row; j++)
        {
            double sum = 0;
            for (int c = 0; c < headDim; c++)
            {
                sum += (double)q[(row * heads + head) * headDim + c] * k[(j * heads + head) * headDim + c];
            }
            weights[j] = sum / Math.Sqrt(headDim);
            maximum = Math.Max(maximum, weights[j]);
        }
        double total = 0;
        for (int j = 0; j <= row; j++)
        {
            total += weights[j] = Math.Exp(weights[j] - maximum);
        }
        for (int j = 0; j <= row; j++)
        {
            weights[j] /= total;
        }
        return weights;
    }

    /// <summary>Largest difference between a computed row of O and the exact one; NaN if the computed row has a NaN.</summary>
    public static double MaxError(float[] q, float[] k, float[] v, ReadOnlySpan<float> o, int row, int head, int heads, int headDim)
    {
        double[] weights = Weights(q, k, row, head, heads, headDim);
        double worst = 0;
        for (int c = 0; c < headDim; c++)
        {
            double exact = 0;
            for (int j = 0; j <= row; j++)
            {
                exact += weights[j] * v[(j * heads + head) * headDim + c];
            }
            double error = Math.Abs(exact - o[(row * heads + head) * headDim + c]);
            worst = Math.Max(worst, error); // NaN wins
        }
        return worst;
    }
}
