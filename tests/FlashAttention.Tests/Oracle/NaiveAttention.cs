using System.Numerics.Tensors;

namespace FlashAttention.Tests;

/// <summary>Attention as a plain implementation in the case's own dtype computes it: loops with one fp32 accumulator per element, every matrix (scores,
/// probabilities, their gradients, the outputs) stored in the dtype. Its backward pass has the contract of the product's: it takes O and lse as the forward
/// pass stored them, recomputes P = exp(S - lse) and D = Σ dO O. Its error against the oracle is the yardstick of bound (b) of
/// <see cref="Tolerance"/>.</summary>
internal sealed class NaiveAttention
{
    private readonly ProblemCase problem;
    private readonly AttentionInputs inputs;
    private readonly AttentionResult result;
    private readonly PairRules rules;
    private readonly float[] q;
    private readonly float[] k;
    private readonly float[] v;
    private readonly float[] gradO;

    private NaiveAttention(ProblemCase problem, AttentionInputs inputs)
    {
        this.problem = problem;
        this.inputs = inputs;
        result = new AttentionResult(problem, inputs.Extra);
        rules = new PairRules(problem, inputs.Extra);
        Array.Fill(result.Lse, double.NegativeInfinity);
        q = ToFloat(inputs.Q);
        k = ToFloat(inputs.K);
        v = ToFloat(inputs.V);
        gradO = ToFloat(inputs.GradO);
    }

    public static AttentionResult Compute(ProblemCase problem, AttentionInputs inputs)
    {
        var naive = new NaiveAttention(problem, inputs);
        var parallel = new ParallelOptions { MaxDegreeOfParallelism = inputs.Extra.Bias.Length + inputs.Extra.Sinks.Length > 0 ? 1 : -1 };
        Parallel.For(0, problem.Batch * problem.HeadsKv, parallel, naive.KeyValueHead);
        naive.RoundBiasGradient();
        return naive.result;
    }

    private float Round(float x) => problem.Format.Round(x);

    private void KeyValueHead(int pair)
    {
        var gradK = new float[problem.LenKv * problem.HeadDim];
        var gradV = new float[problem.LenKv * problem.HeadDimV];
        var row = new RowState(problem);
        int firstHead = pair % problem.HeadsKv * problem.Group;
        for (int sequence = 0; sequence < rules.Places.Length; sequence++)
        {
            Place place = rules.Places[sequence];
            if (place.Batch != pair / problem.HeadsKv)
            {
                continue;
            }
            for (int head = firstHead; head < firstHead + problem.Group; head++)
            {
                for (int i = 0; i < place.LenQ; i++)
                {
                    QueryRow(row, pair, sequence, head, i, gradK, gradV);
                }
            }
        }
        Store(gradK, result.GradK, pair);
        Store(gradV, result.GradV, pair);
    }

    private void QueryRow(RowState at, int pair, int sequence, int head, int i, float[] gradK, float[] gradV)
    {
        int d = problem.HeadDim;
        int dv = problem.HeadDimV;
        Place place = rules.Places[sequence];
        int row = (place.Batch * problem.HeadsQ + head) * problem.LenQ + place.FirstQ + i;
        int visible = rules.Keys(sequence, head, i, at.Keys);
        ReadOnlySpan<float> queryRow = q.AsSpan(row * d, d);
        ReadOnlySpan<float> gradORow = gradO.AsSpan(row * dv, dv);
        float lse = Scores(at, queryRow, pair, sequence, head, i, visible);
        result.Lse[row] = lse;
        Array.Clear(at.O);
        for (int n = 0; n < visible; n++)
        {
            int j = place.FirstKv + at.Keys[n];
            at.P[n] = Round(MathF.Exp(at.S[n] - lse));
            at.Keep[n] = (float)rules.Keep(sequence, head, i, at.Keys[n]);
            float kept = Round(at.P[n] * at.Keep[n]);
            TensorPrimitives.MultiplyAdd(Value(pair, j), kept, at.O, at.O);
            TensorPrimitives.MultiplyAdd(gradORow, kept, gradV.AsSpan(j * dv, dv), gradV.AsSpan(j * dv, dv));
        }
        for (int c = 0; c < dv; c++)
        {
            at.O[c] = Round(at.O[c]);
        }
        Store(at.O, result.O, row);
        float delta = visible == 0 ? 0 : Dot(gradORow, at.O);
        float gradLse = inputs.GradLse.Length == 0 ? 0 : (float)inputs.GradLse[row];
        if (result.GradSinks.Length > 0)
        {
            result.GradSinks[head] = (float)result.GradSinks[head] + MathF.Exp((float)rules.Sink(head) - lse) * (gradLse - delta);
        }
        Array.Clear(at.GradQ);
        for (int n = 0; n < visible; n++)
        {
            int j = place.FirstKv + at.Keys[n];
            float gradP = Round(at.Keep[n] * Dot(gradORow, Value(pair, j)));
            float gradS = Round(at.P[n] * (gradP - delta + gradLse));
            if (result.GradBias.Length > 0)
            {
                int index = rules.BiasIndex(sequence, head, i, at.Keys[n]);
                result.GradBias[index] = (float)result.GradBias[index] + gradS;
            }
            gradS = (problem.Variants.Softcap > 0 ? Round(gradS * (1 - at.Tanh[n] * at.Tanh[n])) : gradS) * (float)problem.EffectiveScale;
            TensorPrimitives.MultiplyAdd(Key(pair, j), gradS, at.GradQ, at.GradQ);
            TensorPrimitives.MultiplyAdd(queryRow, gradS, gradK.AsSpan(j * d, d), gradK.AsSpan(j * d, d));
        }
        Store(at.GradQ, result.GradQ, row);
    }

    private void RoundBiasGradient()
    {
        for (int i = 0; i < result.GradBias.Length; i++)
        {
            result.GradBias[i] = problem.BiasFormat.Round(result.GradBias[i]);
        }
    }

    private ReadOnlySpan<float> Key(int pair, int j) => k.AsSpan((pair * problem.LenKv + j) * problem.HeadDim, problem.HeadDim);

    private ReadOnlySpan<float> Value(int pair, int j) => v.AsSpan((pair * problem.LenKv + j) * problem.HeadDimV, problem.HeadDimV);

    /// <summary>Fills one row of scores and returns its lse.</summary>
    private float Scores(RowState at, ReadOnlySpan<float> queryRow, int pair, int sequence, int head, int i, int visible)
    {
        var cap = problem.Variants.Softcap;
        var sink = (float)rules.Sink(head);
        float max = sink;
        for (int n = 0; n < visible; n++)
        {
            float score = Round((float)problem.EffectiveScale * Dot(queryRow, Key(pair, rules.Places[sequence].FirstKv + at.Keys[n])));
            if (cap > 0)
            {
                at.Tanh[n] = MathF.Tanh(score / cap);
                score = Round(cap * at.Tanh[n]);
            }
            score = Round(score + (float)rules.Bias(sequence, head, i, at.Keys[n]));
            at.S[n] = Round(score - (float)rules.Alibi(sequence, head, i, at.Keys[n]));
            max = Math.Max(max, at.S[n]);
        }
        if (visible == 0)
        {
            return sink;
        }
        float sum = MathF.Exp(sink - max);
        for (int n = 0; n < visible; n++)
        {
            sum += MathF.Exp(at.S[n] - max);
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

    /// <summary>What one row needs, kept from row to row.</summary>
    private sealed class RowState(ProblemCase problem)
    {
        public int[] Keys { get; } = new int[problem.LenKv];
        public float[] S { get; } = new float[problem.LenKv];
        public float[] P { get; } = new float[problem.LenKv];
        public float[] Keep { get; } = new float[problem.LenKv];
        public float[] Tanh { get; } = new float[problem.LenKv];
        public float[] O { get; } = new float[problem.HeadDimV];
        public float[] GradQ { get; } = new float[problem.HeadDim];
    }
}
