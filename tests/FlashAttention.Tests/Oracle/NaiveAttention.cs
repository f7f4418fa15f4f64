using System.Numerics.Tensors;

namespace FlashAttention.Tests;

/// <summary>Attention as a plain implementation in the case's own dtype computes it: each matrix product accumulates in fp32 and its result is stored in the
/// dtype, scores and probabilities included. Its error against the oracle is the yardstick of bound (b) of <see cref="Tolerance"/>.</summary>
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
        var gradP = new float[problem.LenKv];
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
            result.Lse[row] = Probabilities(queryRow, pair, p.AsSpan(0, visible));
            Array.Clear(o);
            Array.Clear(gradQ);
            for (int j = 0; j < visible; j++)
            {
                TensorPrimitives.MultiplyAdd(v.AsSpan((pair * problem.LenKv + j) * dv, dv), p[j], o, o);
                gradP[j] = Round(TensorPrimitives.Dot(gradORow, v.AsSpan((pair * problem.LenKv + j) * dv, dv)));
                TensorPrimitives.MultiplyAdd(gradORow, p[j], gradV.AsSpan(j * dv, dv), gradV.AsSpan(j * dv, dv));
            }
            Store(o, result.O, row);
            float delta = TensorPrimitives.Dot(p.AsSpan(0, visible), gradP.AsSpan(0, visible));
            float gradLse = inputs.GradLse.Length == 0 ? 0 : (float)inputs.GradLse[row];
            for (int j = 0; j < visible; j++)
            {
                float gradS = Round(p[j] * (gradP[j] - delta + gradLse)) * (float)problem.EffectiveScale;
                TensorPrimitives.MultiplyAdd(k.AsSpan((pair * problem.LenKv + j) * d, d), gradS, gradQ, gradQ);
                TensorPrimitives.MultiplyAdd(queryRow, gradS, gradK.AsSpan(j * d, d), gradK.AsSpan(j * d, d));
            }
            Store(gradQ, result.GradQ, row);
        }
        Store(gradK, result.GradK, pair);
        Store(gradV, result.GradV, pair);
    }

    /// <summary>Fills p with one row of softmax and returns its lse.</summary>
    private double Probabilities(ReadOnlySpan<float> queryRow, int pair, Span<float> p)
    {
        int d = problem.HeadDim;
        float max = float.NegativeInfinity;
        for (int j = 0; j < p.Length; j++)
        {
            p[j] = Round((float)problem.EffectiveScale * TensorPrimitives.Dot(queryRow, k.AsSpan((pair * problem.LenKv + j) * d, d)));
            max = Math.Max(max, p[j]);
        }
        float sum = 0;
        for (int j = 0; j < p.Length; j++)
        {
            p[j] = MathF.Exp(p[j] - max);
            sum += p[j];
        }
        for (int j = 0; j < p.Length; j++)
        {
            p[j] = Round(p[j] / sum);
        }
        return max + MathF.Log(sum);
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
