using System.Numerics.Tensors;

namespace FlashAttention.Tests;

/// <summary>Attention as a plain implementation in the case's own dtype computes it: loops with one fp32 accumulator per element, every matrix (scores,
/// probabilities, their gradients, the outputs) stored in the dtype. Its backward pass has the contract of the product's: it takes O and lse as the forward
/// pass stored them, recomputes P = exp(S - lse) and D = Σ dO O. Its error against the oracle is the yardstick of bound (b) of <see cref="Tolerance"/>.</summary>
internal sealed class NaiveAttention
{
    private readonly ProblemCase problem;
    private readonly AttentionInputs inputs;
    private readonly AttentionResult result;
    private readonly float[] q;
    private readonly float[] k;
    private readonly float[] v;
    private readonly float[] gradO;

    private NaiveAttention(ProblemCase problem, AttentionInputs inputs)
    {
        this.problem = problem;
        this.inputs = inputs;
        result = new AttentionResult(problem);
        q = ToFloat(inputs.Q);
        k = ToFloat(inputs.K);
        v = ToFloat(inputs.V);
        gradO = ToFloat(inputs.GradO);
    }

    public static AttentionResult Compute(ProblemCase problem, AttentionInputs inputs)
    {
        var naive = new NaiveAttention(problem, inputs);
        Parallel.For(0, problem.Batch * problem.HeadsKv, naive.KeyValueHead);
        return naive.result;
    }

    private float Round(float x) => problem.Format.Round(x);

    private void KeyValueHead(int pair)
    {
        int d = problem.HeadDim;
        int dv = problem.HeadDimV;
        var gradK = new float[problem.LenKv * d];
        var gradV = new float[problem.LenKv * dv];
        var p = new float[problem.LenKv];
        var o = new float[dv];
        var gradQ = new float[d];
        int firstHead = pair / problem.HeadsKv * problem.HeadsQ + pair % problem.HeadsKv * problem.Group;
        for (int row = firstHead * problem.LenQ; row < (firstHead + problem.Group) * problem.LenQ; row++)
        {
            int visible = problem.VisibleKeys(row % problem.LenQ);
            if (visible == 0)
            {
                result.Lse[row] = double.NegativeInfinity;
                continue;
            }
            ReadOnlySpan<float> queryRow = q.AsSpan(row * d, d);
            ReadOnlySpan<float> gradORow = gradO.AsSpan(row * dv, dv);
            float lse = Scores(queryRow, pair, p.AsSpan(0, visible));
            result.Lse[row] = lse;
            Array.Clear(o);
            for (int j = 0; j < visible; j++)
            {
                p[j] = Round(MathF.Exp(p[j] - lse));
                TensorPrimitives.MultiplyAdd(Value(pair, j), p[j], o, o);
                TensorPrimitives.MultiplyAdd(gradORow, p[j], gradV.AsSpan(j * dv, dv), gradV.AsSpan(j * dv, dv));
            }
            for (int c = 0; c < dv; c++)
            {
                o[c] = Round(o[c]);
            }
            Store(o, result.O, row);
            float delta = Dot(gradORow, o);
            float gradLse = inputs.GradLse.Length == 0 ? 0 : (float)inputs.GradLse[row];
            Array.Clear(gradQ);
            for (int j = 0; j < visible; j++)
            {
                float gradP = Round(Dot(gradORow, Value(pair, j)));
                float gradS = Round(p[j] * (gradP - delta + gradLse)) * (float)problem.EffectiveScale;
                TensorPrimitives.MultiplyAdd(Key(pair, j), gradS, gradQ, gradQ);
                TensorPrimitives.MultiplyAdd(queryRow, gradS, gradK.AsSpan(j * d, d), gradK.AsSpan(j * d, d));
            }
            Store(gradQ, result.GradQ, row);
        }
        Store(gradK, result.GradK, pair);
        Store(gradV, result.GradV, pair);
    }

    private ReadOnlySpan<float> Key(int pair, int j) => k.AsSpan((pair * problem.LenKv + j) * problem.HeadDim, problem.HeadDim);

    private ReadOnlySpan<float> Value(int pair, int j) => v.AsSpan((pair * problem.LenKv + j) * problem.HeadDimV, problem.HeadDimV);

    /// <summary>Fills s with one row of scores and returns its lse.</summary>
    private float Scores(ReadOnlySpan<float> queryRow, int pair, Span<float> s)
    {
        float max = float.NegativeInfinity;
        for (int j = 0; j < s.Length; j++)
        {
            s[j] = Round((float)problem.EffectiveScale * Dot(queryRow, Key(pair, j)));
            max = Math.Max(max, s[j]);
        }
        float sum = 0;
        for (int j = 0; j < s.Length; j++)
        {
            sum += MathF.Exp(s[j] - max);
        }
        return max + MathF.Log(sum);
    }

    // One accumulator, in order: what a plain loop does. Library dot products keep several, which is more accurate.
    private static float Dot(ReadOnlySpan<float> a, ReadOnlySpan<float> b)
    {
        float sum = 0;
        for (int c = 0; c < a.Length; c++)
        {
            sum += a[c] * b[c];
        }
        return sum;
    }

    private void Store(float[] values, double[] target, int row)
    {
        for (int c = 0; c < values.Length; c++)
        {
            target[row * values.Length + c] = Round(values[c]);
        }
    }

    private static float[] ToFloat(double[] values) => Array.ConvertAll(values, x => (float)x);
}
