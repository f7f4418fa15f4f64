namespace FlashAttention.Tests;

/// <summary>Dense results of a case, ordered (batch, heads, sequence, head_dim); lse (batch, heads_q, len_q).</summary>
internal sealed class AttentionResult
{
    public AttentionResult(ProblemCase problem)
    {
        O = new double[Product(problem.SizesO)];
        Lse = new double[problem.LseCount];
        GradQ = new double[Product(problem.SizesQ)];
        GradK = new double[Product(problem.SizesK)];
        GradV = new double[Product(problem.SizesV)];
        GradBias = [];
        GradSinks = [];
    }

    public AttentionResult(ProblemCase problem, VariantData extra)
        : this(problem)
    {
        GradBias = new double[extra.Bias.Length];
        GradSinks = new double[extra.Sinks.Length];
    }

    public double[] O { get; set; }
    public double[] Lse { get; set; }
    public double[] GradQ { get; set; }
    public double[] GradK { get; set; }
    public double[] GradV { get; set; }

    /// <summary>Dense (batch, heads, queries, keys) with the broadcast extents of the bias; empty without one.</summary>
    public double[] GradBias { get; set; }

    /// <summary>(heads_q); empty without sinks.</summary>
    public double[] GradSinks { get; set; }

    public static long Product(long[] sizes) => sizes[0] * sizes[1] * sizes[2] * sizes[3];
}
