using System.Numerics.Tensors;

namespace FlashAttention.Tests;

/// <summary>Exact rows of a problem too large for the whole oracle. Rows of O and dQ are computed from the definition; rows of dK and dV need every query's
/// lse and D, which are taken from the kernel's own forward pass (whose sampled rows are checked).</summary>
internal sealed class SampledOracle(ProblemCase problem, AttentionInputs inputs)
{
    private readonly ErrorModel model = new(problem);
    private readonly double scale = problem.EffectiveScale;
    private readonly int d = problem.HeadDim;
    private readonly int dv = problem.HeadDimV;

    /// <summary>Checks o, lse and grad_q of one query of one head.</summary>
    public void CheckQuery(AttentionResult actual, int headQ, int i)
    {
        int row = headQ * problem.LenQ + i;
        int headKv = headQ / problem.HeadsQ * problem.HeadsKv + headQ % problem.HeadsQ / problem.Group;
        int visible = problem.VisibleKeys(i);
        ReadOnlySpan<double> q = Row(inputs.Q, row, d);
        ReadOnlySpan<double> gradO = Row(inputs.GradO, row, dv);
        var p = new double[visible];
        for (int j = 0; j < visible; j++)
        {
            p[j] = scale * TensorPrimitives.Dot(q, Row(inputs.K, headKv * problem.LenKv + j, d));
        }
        double max = TensorPrimitives.Max<double>(p);
        double sum = p.Sum(s => Math.Exp(s - max));
        double lse = max + Math.Log(sum);
        var o = new double[dv];
        var sizeO = new double[dv];
        for (int j = 0; j < visible; j++)
        {
            p[j] = Math.Exp(p[j] - lse);
            Accumulate(Row(inputs.V, headKv * problem.LenKv + j, dv), p[j], o, sizeO);
        }
        double relative = RelativeError(q);
        Assert.That(actual.Lse[row], Is.EqualTo(lse).Within(relative + ElementFormat.Float32.Ulp(lse)), $"lse of query {i}");
        AssertNear($"o of query {i}", Row(actual.O, row, dv), o, sizeO, relative);

        double delta = TensorPrimitives.Dot(gradO, o);
        var gradQ = new double[d];
        var sizeGradQ = new double[d];
        for (int j = 0; j < visible; j++)
        {
            double gradP = TensorPrimitives.Dot(gradO, Row(inputs.V, headKv * problem.LenKv + j, dv));
            Accumulate(Row(inputs.K, headKv * problem.LenKv + j, d), scale * p[j], gradP - delta, Math.Abs(gradP) + Math.Abs(delta), gradQ, sizeGradQ);
        }
        AssertNear($"grad_q of query {i}", Row(actual.GradQ, row, d), gradQ, sizeGradQ, 2 * relative);
    }

    /// <summary>Checks grad_k and grad_v of one key of one key/value head.</summary>
    public void CheckKey(AttentionResult actual, int headKv, int j)
    {
        int key = headKv * problem.LenKv + j;
        ReadOnlySpan<double> k = Row(inputs.K, key, d);
        ReadOnlySpan<double> v = Row(inputs.V, key, dv);
        var (gradK, sizeK, gradV, sizeV) = (new double[d], new double[d], new double[dv], new double[dv]);
        double relative = RelativeError(k);
        for (int g = 0; g < problem.Group; g++)
        {
            int headQ = headKv / problem.HeadsKv * problem.HeadsQ + headKv % problem.HeadsKv * problem.Group + g;
            for (int i = 0; i < problem.LenQ; i++)
            {
                if (j >= problem.VisibleKeys(i))
                {
                    continue;
                }
                int row = headQ * problem.LenQ + i;
                ReadOnlySpan<double> gradO = Row(inputs.GradO, row, dv);
                double p = Math.Exp(scale * TensorPrimitives.Dot(Row(inputs.Q, row, d), k) - actual.Lse[row]);
                double gradP = TensorPrimitives.Dot(gradO, v);
                double delta = TensorPrimitives.Dot(gradO, Row(actual.O, row, dv));
                Accumulate(gradO, p, gradV, sizeV);
                Accumulate(Row(inputs.Q, row, d), scale * p, gradP - delta, Math.Abs(gradP) + Math.Abs(delta), gradK, sizeK);
            }
        }
        AssertNear($"grad_k of key {j}", Row(actual.GradK, key, d), gradK, sizeK, 2 * relative);
        AssertNear($"grad_v of key {j}", Row(actual.GradV, key, dv), gradV, sizeV, relative);
    }

    // Inputs are standard normal with means up to 1/4 per head: no row is longer than 8 sqrt(d).
    private double RelativeError(ReadOnlySpan<double> row) => model.Probability(model.Score(Math.Sqrt(TensorPrimitives.SumOfSquares(row)), 8 * Math.Sqrt(d)));

    private static ReadOnlySpan<double> Row(double[] rows, int row, int width) => rows.AsSpan(row * width, width);

    private static void Accumulate(ReadOnlySpan<double> vector, double weight, double[] sum, double[] size) => Accumulate(vector, weight, 1, 1, sum, size);

    private static void Accumulate(ReadOnlySpan<double> vector, double weight, double factor, double magnitude, double[] sum, double[] size)
    {
        for (int c = 0; c < vector.Length; c++)
        {
            sum[c] += weight * factor * vector[c];
            size[c] += weight * magnitude * Math.Abs(vector[c]);
        }
    }

    private void AssertNear(string name, ReadOnlySpan<double> actual, double[] expected, double[] size, double relative)
    {
        for (int c = 0; c < expected.Length; c++)
        {
            Assert.That(actual[c], Is.EqualTo(expected[c]).Within(relative * size[c] + problem.Format.Ulp(expected[c])), $"{name}, element {c}");
        }
    }
}
