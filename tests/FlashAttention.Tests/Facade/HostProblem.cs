using System.Numerics.Tensors;

namespace FlashAttention.Tests;

/// <summary>A case as dense tensors of the facade, in logical order (batch, sequence, heads, head_dim), beside its oracle.</summary>
internal sealed class HostProblem<T>
    where T : unmanaged
{
    private readonly AttentionInputs inputs;

    public HostProblem(ProblemCase problem)
    {
        Problem = problem;
        inputs = AttentionInputs.Create(problem);
        Oracle = AttentionOracle.Compute(problem, inputs);
        Q = Dense(inputs.Q, problem.SizesQ);
        K = Dense(inputs.K, problem.SizesK);
        V = Dense(inputs.V, problem.SizesV);
        GradO = Dense(inputs.GradO, problem.SizesO);
        O = Empty(problem.SizesO);
        GradQ = Empty(problem.SizesQ);
        GradK = Empty(problem.SizesK);
        GradV = Empty(problem.SizesV);
        Lse = new float[problem.LseCount];
        GradLse = Array.ConvertAll(inputs.GradLse, x => (float)x);
    }

    public ProblemCase Problem { get; }
    public OracleResult Oracle { get; }
    public Tensor<T> Q { get; }
    public Tensor<T> K { get; }
    public Tensor<T> V { get; }
    public Tensor<T> GradO { get; }
    public Tensor<T> O { get; }
    public Tensor<T> GradQ { get; }
    public Tensor<T> GradK { get; }
    public Tensor<T> GradV { get; }
    public float[] Lse { get; }
    public float[] GradLse { get; }

    public AttentionOptions Options => new()
    {
        Mask = Problem.Mask switch { MaskKind.None => Mask.None, MaskKind.TopLeft => Mask.Causal(Alignment.TopLeft), _ => Mask.Causal(Alignment.BottomRight) },
        Scale = Problem.Scale == 0 ? null : Problem.Scale,
        Deterministic = Problem.Deterministic,
    };

    /// <summary>Checks the tensors against the oracle and the naive implementation.</summary>
    public void AssertForward() => AssertAll(gradients: false);

    public void AssertForwardAndBackward() => AssertAll(gradients: true);

    /// <summary>Values in the oracle's order (batch, heads, sequence, head_dim) from ones in logical order.</summary>
    public static double[] ToHeadMajor(double[] values, long[] sizes)
    {
        var result = new double[values.Length];
        int at = 0;
        for (long b = 0; b < sizes[0]; b++)
        {
            for (long h = 0; h < sizes[2]; h++)
            {
                for (long s = 0; s < sizes[1]; s++)
                {
                    Array.Copy(values, ((b * sizes[1] + s) * sizes[2] + h) * sizes[3], result, at, sizes[3]);
                    at += (int)sizes[3];
                }
            }
        }
        return result;
    }

    public static double[] Values(Tensor<T> tensor) => Array.ConvertAll(Flat(tensor), ToDouble);

    public static T[] Flat(Tensor<T> tensor)
    {
        var flat = new T[(int)tensor.FlattenedLength];
        tensor.FlattenTo(flat);
        return flat;
    }

    public static T FromDouble(double value)
    {
        if (typeof(T) == typeof(float))
        {
            return (T)(object)(float)value;
        }
        return typeof(T) == typeof(Half) ? (T)(object)(Half)value : (T)(object)(BFloat16)value;
    }

    private static double ToDouble(T value) => value switch { float f => f, Half h => (double)h, BFloat16 b => b, _ => throw new NotSupportedException() };

    private void AssertAll(bool gradients)
    {
        AttentionResult naive = NaiveAttention.Compute(Problem, inputs);
        var actual = new AttentionResult(Problem)
        {
            O = ToHeadMajor(Values(O), Problem.SizesO),
            Lse = Array.ConvertAll(Lse, x => (double)x),
            GradQ = ToHeadMajor(Values(GradQ), Problem.SizesQ),
            GradK = ToHeadMajor(Values(GradK), Problem.SizesK),
            GradV = ToHeadMajor(Values(GradV), Problem.SizesV),
        };
        Tolerance.AssertWithin("o", r => r.O, actual, Oracle, naive, Problem.Format);
        Tolerance.AssertWithin("lse", r => r.Lse, actual, Oracle, naive, ElementFormat.Float32);
        if (gradients)
        {
            Tolerance.AssertWithin("grad_q", r => r.GradQ, actual, Oracle, naive, Problem.Format);
            Tolerance.AssertWithin("grad_k", r => r.GradK, actual, Oracle, naive, Problem.Format);
            Tolerance.AssertWithin("grad_v", r => r.GradV, actual, Oracle, naive, Problem.Format);
        }
    }

    private static Tensor<T> Dense(double[] headMajor, long[] sizes)
    {
        // Sequence and heads change places; doing it twice gives the start, so the same function maps both ways with the sizes swapped.
        double[] logical = ToHeadMajor(headMajor, [sizes[0], sizes[2], sizes[1], sizes[3]]);
        return Tensor.Create(Array.ConvertAll(logical, FromDouble), Lengths(sizes));
    }

    private static Tensor<T> Empty(long[] sizes) => Tensor.CreateFromShape<T>(Lengths(sizes));

    private static nint[] Lengths(long[] sizes) => Array.ConvertAll(sizes, x => (nint)x);
}
