namespace FlashAttention.Tests;

/// <summary>How far a fused kernel may be from the exact result, derived from the formats alone (bound (a) of <see cref="Tolerance"/>).
///
/// <para>Let u = 2^-24 be the unit roundoff of fp32, in which scores, exponentials and sums are computed, and uP that of the input format, to which a tensor
/// core kernel rounds P and dS before a product. For a query row with n visible keys:</para>
/// <list type="bullet">
/// <item>score: a dot product of d terms has error at most d u Σ|q||k| and, roundings being independent, at most about √d u Σ|q||k|; with Σ|q||k| ≤ ‖q‖‖k‖ and
/// some roundings more for scale, log2(e) and the subtraction of the maximum (whose size is that of the score): δ = (4 + √d) u scale ‖q‖ max‖k‖;</item>
/// <item>probability: p = exp(s) / Σ exp(s) moves by a factor within e^(±2δ); the exponential itself, the sum and the accumulation of the product add
/// (8 + 2√n) u, the rounding of P adds uP: ε = e^(2δ) − 1 + (8 + 2√n) u + uP, relative. A P below the format's normal range rounds absolutely, by η, which
/// is at least 2^-126: vector units may flush an exponential below fp32's normal range to zero;</item>
/// <item>output: |ΔO| ≤ ε Σ p|v| + n η max|v| + one unit in the last place of the output format (half of it is the final rounding);</item>
/// <item>lse: |Δ| ≤ 2δ + (8 + 2√n) u + one ulp;</item>
/// <item>backward, with dS = p (dP − D + g), D = Σ dO O: O carries its own error, so |ΔD| ≤ Σ|dO||ΔO| + dot error;
/// |ΔdS| ≤ (ε + uP) p (|dP| + |D| + |g|) + p (|ΔD| + |ΔdP|) + η; the gradients sum these with weights |k|, |q|; dV sums (ε p + η)|dO|;</item>
/// <item>score variants: each adds its own roundings to δ. tanh comes from exponentials, whose error is a few u of 1, so softcap · tanh has 8 u softcap; a
/// sum with a bias or
/// an ALiBi term rounds at the size of the term: 3 u each. The derivative 1 − t² of the softcap, t = tanh, moves by 2|t|(δ / softcap + 8 u) + 2 u. Kept
/// probabilities
/// are multiplied by 1 / (1 − dropout): 2 u;</item>
/// <item>gradients of bias and sinks are fp32 sums of n terms: ΣΔ + (8 + 2√n) u Σ|term|.</item>
/// </list></summary>
internal readonly struct ErrorModel
{
    private const double U = 1.0 / (1 << 24);

    private readonly double probabilityRounding;
    private readonly double dotFactor;
    private readonly double valueDotFactor;
    private readonly double scale;

    public ErrorModel(ProblemCase problem)
    {
        probabilityRounding = problem.Format.UnitRoundoff;
        Subnormal = Math.Max(problem.Format.SubnormalRoundoff, Math.ScaleB(1, -126));
        dotFactor = (4 + Math.Sqrt(problem.HeadDim)) * U;
        valueDotFactor = (4 + Math.Sqrt(problem.HeadDimV)) * U;
        scale = problem.EffectiveScale;
        SumFactor = (8 + 2 * Math.Sqrt(Math.Max(problem.LenKv, problem.LenQ * (double)problem.Group))) * U;
    }

    /// <summary>η: absolute rounding error of a P or dS below the normal range.</summary>
    public double Subnormal { get; }

    /// <summary>Relative error of an fp32 sum over the longest dimension, exponential included.</summary>
    public double SumFactor { get; }

    /// <summary>δ of a row.</summary>
    public double Score(double normQ, double maxNormK) => dotFactor * scale * normQ * maxNormK;

    /// <summary>What score variants add to δ.</summary>
    public static double Modifiers(double softcap, double maxBias, double maxAlibi) => U * (8 * softcap + 3 * maxBias + 3 * maxAlibi);

    /// <summary>Error of the softcap's derivative at t = tanh(s / softcap).</summary>
    public static double CapSlope(double t, double score, double softcap) => 2 * Math.Abs(t) * (score / softcap + 8 * U) + 2 * U;

    /// <summary>What one rounding of the score and one of tanh do to the softcap's derivative.</summary>
    public static double OneRoundingOfCapSlope(double t, double oneRounding, double softcap) => 2 * Math.Abs(t) * oneRounding / softcap + 2 * U;

    /// <summary>Relative error of an fp32 sum of n terms.</summary>
    public static double Sum(double n) => (8 + 2 * Math.Sqrt(n)) * U;

    /// <summary>Relative error of the factor 1 / (1 - dropout).</summary>
    public static double KeepScale => 2 * U;

    /// <summary>What one rounding of each score variant adds to <see cref="OneRoundingOfProbability"/>.</summary>
    public static double OneRoundingOfModifiers(double softcap, double maxBias, double maxAlibi) => U * (softcap + maxBias + maxAlibi);

    /// <summary>What one fp32 rounding of a score, and one of its exponential, do to a probability: u (1 + scale ‖q‖ max‖k‖), relative.</summary>
    public double OneRoundingOfProbability(double normQ, double maxNormK) => U * (1 + scale * normQ * maxNormK);

    /// <summary>What one fp32 rounding of dP and one of D, each of the size of its terms, do to a gradient of the scores.</summary>
    public static double OneRoundingOfGradP(double normGradO, double maxNormV) => 2 * U * normGradO * maxNormV;

    /// <summary>ε of a row, without and with the rounding of P or dS to the format.</summary>
    public double Probability(double score) => Math.Exp(2 * score) - 1 + SumFactor + probabilityRounding;

    /// <summary>Error of lse.</summary>
    public double Lse(double score, double lse) => 2 * score + SumFactor + ElementFormat.Float32.Ulp(lse);

    /// <summary>Error of an fp32 dot product over head_dim_v.</summary>
    public double ValueDot(double normA, double normB) => valueDotFactor * normA * normB;

    /// <summary>Factor of the term p (|dP| + |D| + |g|) of |ΔdS|.</summary>
    public double GradScore(double probability) => probability + probabilityRounding;
}
