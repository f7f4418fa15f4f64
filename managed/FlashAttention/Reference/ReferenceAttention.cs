using System.Numerics.Tensors;

namespace FlashAttention;

/// <summary>Result of a reference forward pass.</summary>
/// <param name="O">The output without gaps in the order (batch, len_q, heads_q, head_dim_v).</param>
/// <param name="Lse">Log-sum-exp of the scores in the order (batch, heads_q, len_q).</param>
public sealed record ReferenceOutput(double[] O, double[] Lse);

/// <summary>Result of a reference backward pass.</summary>
/// <param name="Q">Gradient of q without gaps in the order (batch, len_q, heads_q, head_dim).</param>
/// <param name="K">Gradient of k without gaps in the order (batch, len_kv, heads_kv, head_dim).</param>
/// <param name="V">Gradient of v without gaps in the order (batch, len_kv, heads_kv, head_dim_v).</param>
public sealed record ReferenceGradients(double[] Q, double[] K, double[] V)
{
    /// <summary>Gradient of the bias, without gaps in the order of its dimensions; empty without a bias.</summary>
    public double[] Bias { get; init; } = [];

    /// <summary>Gradient of the sinks, heads_q numbers; empty without sinks.</summary>
    public double[] Sinks { get; init; } = [];
}

/// <summary>Attention straight from its definition, in managed code: what to check any other computation against. Slow, and O(len_q · len_kv) time in
/// float64.</summary>
/// <remarks>
/// <para>Forward and Backward compute in float64 without blocking, without an online softmax and without native code. The backward pass does not use o and lse
/// of a forward pass but computes its own.</para>
/// <para><see cref="Naive{T}"/> and <see cref="NaiveBackward{T}"/> do what a plain implementation in the element type does: every matrix (scaled queries,
/// scores, probabilities, gradients) is rounded to it. The field's rule for an exact kernel is that its error against float64 is at most twice theirs.</para>
/// <para>Semantics are those of <see cref="Attention"/>, <see cref="AttentionOptions.Deterministic"/> and <see cref="AttentionOptions.Kernel"/> aside, which
/// mean nothing here; every other option is computed. A tensor may have at most 2³¹ − 1 elements. Thread-safe; results are the same in every run.</para>
/// </remarks>
public static class ReferenceAttention
{
    /// <summary>Computes o and lse in float64.</summary>
    /// <typeparam name="T">float, Half or BFloat16.</typeparam>
    /// <param name="q">(batch, len_q, heads_q, head_dim).</param>
    /// <param name="k">(batch, len_kv, heads_kv, head_dim).</param>
    /// <param name="v">(batch, len_kv, heads_kv, head_dim_v).</param>
    /// <param name="options">Mask, scale and so on; what it refers to must be in host memory.</param>
    /// <returns>o and lse.</returns>
    /// <exception cref="ArgumentException">A rank is not 4, or shapes contradict each other.</exception>
    /// <exception cref="NotSupportedException"><typeparamref name="T"/> is another type.</exception>
    public static ReferenceOutput Forward<T>(in ReadOnlyTensorSpan<T> q, in ReadOnlyTensorSpan<T> k, in ReadOnlyTensorSpan<T> v, AttentionOptions options)
        where T : unmanaged
    {
        ArgumentNullException.ThrowIfNull(options);
        ReferenceSizes sizes = ReferenceSizes.From(in q, in k, in v);
        ReferencePasses<double, Unrounded> pass = new(
            new ReferenceProblem(sizes, options), ReferenceLayout.ToHeadMajor(in q), ReferenceLayout.ToHeadMajor(in k), ReferenceLayout.ToHeadMajor(in v));
        pass.Forward();
        return new ReferenceOutput(ReferenceLayout.ToSequenceMajor(pass.O, sizes.Batch, sizes.HeadsQ, sizes.LengthQ, sizes.HeadDimV), pass.Lse);
    }

    /// <summary>Computes the gradients of q, k and v in float64.</summary>
    /// <typeparam name="T">float, Half or BFloat16.</typeparam>
    /// <param name="q">(batch, len_q, heads_q, head_dim).</param>
    /// <param name="k">(batch, len_kv, heads_kv, head_dim).</param>
    /// <param name="v">(batch, len_kv, heads_kv, head_dim_v).</param>
    /// <param name="gradO">Gradient of o, (batch, len_q, heads_q, head_dim_v).</param>
    /// <param name="options">Mask, scale and so on; what it refers to must be in host memory.</param>
    /// <returns>Gradients.</returns>
    /// <exception cref="ArgumentException">A rank is not 4, or shapes contradict each other.</exception>
    /// <exception cref="NotSupportedException"><typeparamref name="T"/> is another type.</exception>
    public static ReferenceGradients Backward<T>(
        in ReadOnlyTensorSpan<T> q, in ReadOnlyTensorSpan<T> k, in ReadOnlyTensorSpan<T> v, in ReadOnlyTensorSpan<T> gradO, AttentionOptions options)
        where T : unmanaged => Backward(in q, in k, in v, in gradO, default, options);

    /// <summary>Computes the gradients of q, k and v in float64 when lse took part in the loss too.</summary>
    /// <typeparam name="T">float, Half or BFloat16.</typeparam>
    /// <param name="q">(batch, len_q, heads_q, head_dim).</param>
    /// <param name="k">(batch, len_kv, heads_kv, head_dim).</param>
    /// <param name="v">(batch, len_kv, heads_kv, head_dim_v).</param>
    /// <param name="gradO">Gradient of o, (batch, len_q, heads_q, head_dim_v).</param>
    /// <param name="gradLse">Gradient of lse, batch · heads_q · len_q numbers; empty if lse took no part. Ignored for rows that see no key.</param>
    /// <param name="options">Mask, scale and so on; what it refers to must be in host memory.</param>
    /// <returns>Gradients.</returns>
    /// <exception cref="ArgumentException">A rank is not 4, or shapes contradict each other.</exception>
    /// <exception cref="NotSupportedException"><typeparamref name="T"/> is another type.</exception>
    public static ReferenceGradients Backward<T>(
        in ReadOnlyTensorSpan<T> q,
        in ReadOnlyTensorSpan<T> k,
        in ReadOnlyTensorSpan<T> v,
        in ReadOnlyTensorSpan<T> gradO,
        ReadOnlySpan<float> gradLse,
        AttentionOptions options)
        where T : unmanaged
    {
        ArgumentNullException.ThrowIfNull(options);
        ReferenceSizes sizes = ReferenceSizes.From(in q, in k, in v);
        sizes.CheckGradients(in gradO, gradLse);
        ReferencePasses<double, Unrounded> pass = new(
            new ReferenceProblem(sizes, options), ReferenceLayout.ToHeadMajor(in q), ReferenceLayout.ToHeadMajor(in k), ReferenceLayout.ToHeadMajor(in v));
        pass.Backward(ReferenceLayout.ToHeadMajor(in gradO), Array.ConvertAll(gradLse.ToArray(), x => (double)x));
        return Pack(sizes, pass.GradQ, pass.GradK, pass.GradV) with { Bias = pass.GradBias, Sinks = pass.GradSinks };
    }

    /// <summary>Computes o and lse as a plain implementation in the element type does: scaled queries, scores, probabilities and output are rounded to it,
    /// products are summed in fp32.</summary>
    /// <typeparam name="T">float, Half or BFloat16.</typeparam>
    /// <param name="q">(batch, len_q, heads_q, head_dim).</param>
    /// <param name="k">(batch, len_kv, heads_kv, head_dim).</param>
    /// <param name="v">(batch, len_kv, heads_kv, head_dim_v).</param>
    /// <param name="options">Mask, scale and so on; what it refers to must be in host memory.</param>
    /// <returns>o and lse: numbers of the element type and of fp32, widened.</returns>
    /// <exception cref="ArgumentException">A rank is not 4, or shapes contradict each other.</exception>
    /// <exception cref="NotSupportedException"><typeparamref name="T"/> is another type.</exception>
    public static ReferenceOutput Naive<T>(in ReadOnlyTensorSpan<T> q, in ReadOnlyTensorSpan<T> k, in ReadOnlyTensorSpan<T> v, AttentionOptions options)
        where T : unmanaged
    {
        ArgumentNullException.ThrowIfNull(options);
        ReferenceSizes sizes = ReferenceSizes.From(in q, in k, in v);
        ReferencePasses<float, RoundedTo<T>> pass = new(new ReferenceProblem(sizes, options), Singles(in q), Singles(in k), Singles(in v));
        pass.Forward();
        double[] o = ReferenceLayout.ToDouble(pass.O);
        return new ReferenceOutput(
            ReferenceLayout.ToSequenceMajor(o, sizes.Batch, sizes.HeadsQ, sizes.LengthQ, sizes.HeadDimV), ReferenceLayout.ToDouble(pass.Lse));
    }

    /// <summary>Computes the gradients of q, k and v as a plain implementation in the element type does: every matrix is rounded to it, products are summed in
    /// fp32.</summary>
    /// <typeparam name="T">float, Half or BFloat16.</typeparam>
    /// <param name="q">(batch, len_q, heads_q, head_dim).</param>
    /// <param name="k">(batch, len_kv, heads_kv, head_dim).</param>
    /// <param name="v">(batch, len_kv, heads_kv, head_dim_v).</param>
    /// <param name="gradO">Gradient of o, (batch, len_q, heads_q, head_dim_v).</param>
    /// <param name="gradLse">Gradient of lse, batch · heads_q · len_q numbers; empty if lse took no part. Ignored for rows that see no key.</param>
    /// <param name="options">Mask, scale and so on; what it refers to must be in host memory.</param>
    /// <returns>Gradients: numbers of the element type, widened.</returns>
    /// <exception cref="ArgumentException">A rank is not 4, or shapes contradict each other.</exception>
    /// <exception cref="NotSupportedException"><typeparamref name="T"/> is another type.</exception>
    public static ReferenceGradients NaiveBackward<T>(
        in ReadOnlyTensorSpan<T> q,
        in ReadOnlyTensorSpan<T> k,
        in ReadOnlyTensorSpan<T> v,
        in ReadOnlyTensorSpan<T> gradO,
        ReadOnlySpan<float> gradLse,
        AttentionOptions options)
        where T : unmanaged
    {
        ArgumentNullException.ThrowIfNull(options);
        ReferenceSizes sizes = ReferenceSizes.From(in q, in k, in v);
        sizes.CheckGradients(in gradO, gradLse);
        ReferencePasses<float, RoundedTo<T>> pass = new(new ReferenceProblem(sizes, options), Singles(in q), Singles(in k), Singles(in v));
        pass.Backward(Singles(in gradO), gradLse.ToArray());
        return Pack(sizes, ReferenceLayout.ToDouble(pass.GradQ), ReferenceLayout.ToDouble(pass.GradK), ReferenceLayout.ToDouble(pass.GradV)) with
        {
            Bias = ReferenceLayout.ToDouble(pass.GradBias),
            Sinks = ReferenceLayout.ToDouble(pass.GradSinks),
        };
    }

    /// <summary>Largest absolute difference between a result and a reference.</summary>
    /// <typeparam name="T">float, Half or BFloat16.</typeparam>
    /// <param name="actual">Result, (batch, sequence, heads, head_dim), any strides.</param>
    /// <param name="expected">Reference without gaps in the same order.</param>
    /// <returns>The largest |actual − expected|; +∞ if one has a NaN or an infinity where the other has not the same. 0 if there are no elements.</returns>
    /// <exception cref="ArgumentException">A rank is not 4, or the numbers of elements differ.</exception>
    /// <exception cref="NotSupportedException"><typeparamref name="T"/> is another type.</exception>
    public static double MaxAbsoluteError<T>(in ReadOnlyTensorSpan<T> actual, ReadOnlySpan<double> expected)
        where T : unmanaged
    {
        Ensure.Rank4(actual.Rank, nameof(actual));
        Ensure.Exactly(expected.Length, actual.FlattenedLength, nameof(expected));
        double[] flat = ReferenceLayout.ToSequenceMajor(
            ReferenceLayout.ToHeadMajor(in actual), (int)actual.Lengths[0], (int)actual.Lengths[2], (int)actual.Lengths[1], (int)actual.Lengths[3]);
        double largest = 0;
        for (int i = 0; i < flat.Length; ++i)
        {
            // Equals is true for two NaNs and for two equal infinities, whose difference would be NaN.
            double error = flat[i].Equals(expected[i]) ? 0 : Math.Abs(flat[i] - expected[i]);
            largest = error <= largest ? largest : double.IsNaN(error) ? double.PositiveInfinity : error;
        }

        return largest;
    }

    private static float[] Singles<T>(in ReadOnlyTensorSpan<T> tensor)
        where T : unmanaged => ReferenceLayout.ToSingle(ReferenceLayout.ToHeadMajor(in tensor));

    private static ReferenceGradients Pack(ReferenceSizes sizes, double[] gradQ, double[] gradK, double[] gradV) => new(
        ReferenceLayout.ToSequenceMajor(gradQ, sizes.Batch, sizes.HeadsQ, sizes.LengthQ, sizes.HeadDim),
        ReferenceLayout.ToSequenceMajor(gradK, sizes.Batch, sizes.HeadsKv, sizes.LengthKv, sizes.HeadDim),
        ReferenceLayout.ToSequenceMajor(gradV, sizes.Batch, sizes.HeadsKv, sizes.LengthKv, sizes.HeadDimV));
}
