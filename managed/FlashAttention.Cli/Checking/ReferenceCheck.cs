using System.Numerics.Tensors;
using FlashAttention.Cli.Output;
using FlashAttention.Cli.Tensors;

namespace FlashAttention.Cli.Checking;

/// <summary>Runs a problem on its device and compares every output with the float64 reference.</summary>
internal static class ReferenceCheck
{
    /// <summary>Kernels sum powers of 2 and convert: a score is rounded when it goes to base 2 and again when the result comes back, and its own sum over
    /// head_dim has another order than the naive form's, on both sides.</summary>
    private const double LseRoundings = 4;

    /// <summary>Runs forward (and backward if the call is enabled for it) with poisoned outputs.</summary>
    /// <param name="call">The problem; its tensors hold the inputs.</param>
    /// <param name="backward">Whether to check the gradients too.</param>
    public static VerifyTensor[] Run(AttentionCall call, bool backward)
    {
        call.Poison();
        call.Forward();
        if (backward)
        {
            call.Backward();
        }
        call.Synchronize();
        call.Download();
        return call.Q.Type switch
        {
            DType.Float32 => Compare<float>(call, backward),
            DType.Float16 => Compare<Half>(call, backward),
            _ => Compare<BFloat16>(call, backward),
        };
    }

    private static VerifyTensor[] Compare<T>(AttentionCall call, bool backward)
        where T : unmanaged
    {
        ReadOnlyTensorSpan<T> q = call.Q.Span<T>(), k = call.K.Span<T>(), v = call.V.Span<T>();
        ProblemMagnitudes sizes = ErrorBounds.Measure(call, backward ? call.GradO : null);
        List<VerifyTensor> results = [];
        ReferenceOutput exact = ReferenceAttention.Forward(q, k, v, call.Options);
        ReferenceOutput naive = ReferenceAttention.Naive(q, k, v, call.Options);
        results.Add(Verdict(sizes, "O", call.O.ToFloats(), exact.O, naive.O, sizes.Epsilon, sizes.MaxV, _ => ErrorBounds.UnitO(sizes)));
        results.Add(Verdict(sizes, "LSE", call.Lse.ToFloats(), exact.Lse, naive.Lse, ErrorBounds.Epsilon(DType.Float32), LseRoundings,
            largest => ErrorBounds.UnitLse(sizes, largest)));
        if (backward)
        {
            ReadOnlyTensorSpan<T> gradO = call.GradO.Span<T>();
            ReferenceGradients exactGradients = ReferenceAttention.Backward(q, k, v, gradO, call.Options);
            ReferenceGradients naiveGradients = ReferenceAttention.NaiveBackward(q, k, v, gradO, default, call.Options);
            long keys = call.K.Shape.Sequence, queries = call.Q.Shape.Sequence * (call.Q.Shape.Heads / Math.Max(1, call.K.Shape.Heads));
            results.Add(Gradient("dQ", call.GradQ.ToFloats(), exactGradients.Q, naiveGradients.Q, ErrorBounds.PairGradQ(sizes), keys));
            results.Add(Gradient("dK", call.GradK.ToFloats(), exactGradients.K, naiveGradients.K, ErrorBounds.PairGradK(sizes), queries));
            results.Add(Gradient("dV", call.GradV.ToFloats(), exactGradients.V, naiveGradients.V, ErrorBounds.PairGradV(sizes), queries, throughScores: false));
            long rows = call.Q.Shape.Batch * call.Q.Shape.Heads * call.Q.Shape.Sequence;
            if (call.GradBias is { } bias)
            {
                // As many pairs as the bias is broadcast to.
                long pairs = rows * keys / Math.Max(1, bias.Shape.ElementCount);
                results.Add(Gradient("dBias", bias.ToFloats(), exactGradients.Bias, naiveGradients.Bias, ErrorBounds.PairGradScore(sizes), pairs));
            }
            if (call.GradSinks is { } sinks)
            {
                results.Add(Gradient("dSinks", sinks, exactGradients.Sinks, naiveGradients.Sinks, ErrorBounds.PairGradScore(sizes), rows / sinks.Length));
            }
        }
        return [.. results];

        VerifyTensor Gradient(string name, float[] actual, double[] exact, double[] naive, double pair, long parts, bool throughScores = true) =>
            Verdict(sizes, name, actual, exact, naive, sizes.Epsilon, pair, largest => ErrorBounds.UnitGradient(sizes, largest, pair), parts, throughScores);
    }

    /// <summary>Compares one output.</summary>
    /// <param name="sizes">Size of the inputs.</param>
    /// <param name="name">Name for people.</param>
    /// <param name="values">What the device computed.</param>
    /// <param name="exact">float64, in logical order.</param>
    /// <param name="naive">The naive form in the element type.</param>
    /// <param name="epsilon">Unit of the output's type.</param>
    /// <param name="pair">What one (query, key) pair can add to a component.</param>
    /// <param name="unitBound">From the largest component of the reference to the unit bound.</param>
    /// <param name="parts">How many pairs a component is the sum of; 0 for an average.</param>
    /// <param name="throughScores">Whether it is a gradient that comes through the scores.</param>
    private static VerifyTensor Verdict(ProblemMagnitudes sizes, string name, float[] values, double[] exact, double[] naive, double epsilon, double pair,
        Func<double, double> unitBound, long parts = 0, bool throughScores = false)
    {
        double largest = 0, error = 0, naiveError = 0;
        for (int i = 0; i < values.Length; i++)
        {
            error = Math.Max(error, Difference(values[i], exact[i]));
            naiveError = Math.Max(naiveError, Difference(naive[i], exact[i]));
            largest = double.IsFinite(exact[i]) ? Math.Max(largest, Math.Abs(exact[i])) : largest;
        }
        double unitUsed = Used(error, unitBound(largest));
        double naiveUsed = Used(error, ErrorBounds.Naive(sizes, naiveError, epsilon, largest, pair, parts, throughScores));
        return new VerifyTensor(name, unitUsed <= 1 && naiveUsed <= 1, error, unitUsed, naiveError, naiveUsed);
    }

    /// <summary>Absolute difference; 0 for equal infinities and for two NaNs, infinite where only one is finite.</summary>
    private static double Difference(double actual, double exact) =>
        actual.Equals(exact) ? 0 : double.IsFinite(actual) && double.IsFinite(exact) ? Math.Abs(actual - exact) : double.PositiveInfinity;

    private static double Used(double error, double bound) => error == 0 ? 0 : error / bound;
}
