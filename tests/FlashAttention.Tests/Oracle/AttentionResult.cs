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
    }

    public double[] O { get; set; }
    public double[] Lse { get; set; }
    public double[] GradQ { get; set; }
    public double[] GradK { get; set; }
    public double[] GradV { get; set; }

    public static long Product(long[] sizes) => sizes[0] * sizes[1] * sizes[2] * sizes[3];
}
