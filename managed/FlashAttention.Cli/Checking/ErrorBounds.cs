using FlashAttention.Cli.Tensors;

namespace FlashAttention.Cli.Checking;

/// <summary>Size of the inputs of a problem, from which bounds on errors follow.</summary>
/// <param name="Epsilon">Unit of the element type: distance from 1 to the next number.</param>
/// <param name="Scale">Factor on the scores.</param>
/// <param name="MaxQ">Largest component of q; likewise the next three.</param>
/// <param name="MaxK">Largest component of k.</param>
/// <param name="MaxV">Largest component of v.</param>
/// <param name="MaxGradO">Largest component of the gradient of o.</param>
/// <param name="Score">scale * |q| * |k| of the longest rows: no score is larger.</param>
/// <param name="LikelyScore">Size of a score: for random rows hardly ever above 4/sqrt(dim) of <paramref name="Score"/>.</param>
/// <param name="GradP">Size of a scalar product of a row of the gradient of o and a row of v: for random rows hardly ever above 4/sqrt(dim) of the product
/// of their lengths.</param>
internal sealed record ProblemMagnitudes(double Epsilon, double Scale, double MaxQ, double MaxK, double MaxV, double MaxGradO, double Score, double LikelyScore,
    double GradP);

/// <summary>How far a result may be from the float64 reference.</summary>
/// <remarks>Two bounds hold at once. The unit bound: a few units of the element type at the size of the result, and a few fp32 units for every unit of
/// score, because scores are summed in fp32 and an error of a score is a relative error of a probability. The naive bound: twice the error of a plain
/// implementation that rounds every matrix to the element type, one rounding of the result and of the scores, and the fp32 rounding of sums.</remarks>
internal static class ErrorBounds
{
    private const double SingleEpsilon = 1.0 / (1 << 23);

    public static double Epsilon(DType type) => type switch
    {
        DType.Float32 => SingleEpsilon,
        DType.Float16 => 1.0 / (1 << 10),
        _ => 1.0 / (1 << 7),
    };

    public static ProblemMagnitudes Measure(AttentionCall call, HostTensor? gradO)
    {
        double scale = call.Options.Scale ?? 1 / Math.Sqrt(call.Q.Shape.HeadDim);
        (double maxQ, double longQ) = Size(call.Q);
        (double maxK, double longK) = Size(call.K);
        (double maxV, double longV) = Size(call.V);
        (double maxGradO, double longGradO) = gradO is null ? (0, 0) : Size(gradO);
        double dim = Math.Sqrt(Math.Max(1, call.V.Shape.HeadDim));
        // Dropout makes what is kept larger.
        double kept = 1 / (1 - (call.Options.Dropout?.Rate ?? 0.0)), added = Added(call), score = scale * longQ * longK;
        double likely = score * Math.Min(1, 4 / Math.Sqrt(call.Q.Shape.HeadDim));
        return new ProblemMagnitudes(Epsilon(call.Q.Type), scale, maxQ, maxK, maxV * kept, maxGradO * kept, score + added, likely + added,
            Math.Min(1, 4 / dim) * longGradO * longV * kept);
    }

    /// <summary>Largest number that modifiers add to a score, or take off it.</summary>
    private static double Added(AttentionCall call)
    {
        double bias = call.Scores.Bias?.ToFloats().Select(MathF.Abs).DefaultIfEmpty().Max() ?? 0;
        double slope = call.Scores.Slopes?.Select(MathF.Abs).DefaultIfEmpty().Max() ?? 0;
        return bias + (slope * (call.Q.Shape.Sequence + call.K.Shape.Sequence));
    }

    public static double UnitO(ProblemMagnitudes m) => m.MaxV * ((4 * m.Epsilon) + (4 * SingleEpsilon * (1 + m.Score)));

    /// <summary>As <see cref="UnitO"/> for inputs that repeat themselves, as text does: adding the same number again and again in fp32 rounds the same way
    /// every time, so that the error of a sum may grow with its number of terms instead of the root of it.</summary>
    public static double UnitORepetitive(ProblemMagnitudes m, long terms) => UnitO(m) + (m.MaxV * terms * SingleEpsilon / 2);

    public static double UnitLse(ProblemMagnitudes m, double largest) => 8 * SingleEpsilon * (1 + m.Score + largest);

    /// <summary>What one (query, key) pair can add to a component of a gradient.</summary>
    public static double PairGradQ(ProblemMagnitudes m) => m.Scale * m.GradP * m.MaxK;

    public static double PairGradK(ProblemMagnitudes m) => m.Scale * m.GradP * m.MaxQ;

    public static double PairGradV(ProblemMagnitudes m) => m.MaxGradO;

    /// <summary>Likewise of a gradient of a bias or a sink.</summary>
    public static double PairGradScore(ProblemMagnitudes m) => m.GradP;

    /// <summary>Unit bound of a gradient.</summary>
    /// <param name="m">Sizes.</param>
    /// <param name="largest">Largest component of the reference.</param>
    /// <param name="pair">What one pair can add; a gradient may be small because such parts cancel.</param>
    public static double UnitGradient(ProblemMagnitudes m, double largest, double pair) => Gradient(m, Math.Max(largest, pair));

    /// <summary>Twice the error of the naive form, one rounding of the result, and of each pair's part the fp32 rounding: that of its score, whose error is
    /// a relative error of its probability, and a few more; and that of the running sum of all parts, which grows with the root of their number. Gradients
    /// through scores take sum(p * dp) of a row from o as it is stored: that is off by half a unit of the element type, however exact the naive form
    /// happens to be.</summary>
    public static double Naive(ProblemMagnitudes m, double naiveError, double epsilon, double largest, double pair, long parts, bool throughScores) =>
        (2 * naiveError) + (epsilon * largest) + (SingleEpsilon * pair * (4 + m.LikelyScore + (2 * Math.Sqrt(parts))))
        + (throughScores ? m.Epsilon / 2 * pair : 0);

    private static double Gradient(ProblemMagnitudes m, double size) => size * ((8 * m.Epsilon) + (16 * SingleEpsilon * (1 + m.Score)));

    /// <summary>Largest component, and Euclidean length of the longest row.</summary>
    private static (double Component, double Row) Size(HostTensor tensor)
    {
        double component = 0, row = 0, squares = 0;
        long dim = tensor.Shape.HeadDim;
        float[] values = tensor.ToFloats();
        for (long i = 0; i < values.Length; i++)
        {
            component = Math.Max(component, Math.Abs(values[i]));
            squares += (double)values[i] * values[i];
            if ((i + 1) % dim == 0)
            {
                row = Math.Max(row, Math.Sqrt(squares));
                squares = 0;
            }
        }
        return (component, row);
    }
}
