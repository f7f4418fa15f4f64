using System.Numerics.Tensors;

namespace FlashAttention.Tests;

/// <summary>What the oracle says of a case, element by element.</summary>
/// <param name="Exact">The result in float64.</param>
/// <param name="Allowed">The error that a correct kernel may have: bound (a) of <see cref="Tolerance"/>, from <see cref="ErrorModel"/>.</param>
/// <param name="OneRounding">The error that one fp32 rounding of each quantity on the way makes: the additive term of bound (b).</param>
internal sealed record OracleResult(AttentionResult Exact, AttentionResult Allowed, AttentionResult OneRounding);

/// <summary>Exact attention in float64 from the definition, row by row, without blocking and without any product code.</summary>
internal static class AttentionOracle
{
    /// <summary>Forward and backward of a case.</summary>
    public static OracleResult Compute(ProblemCase problem, AttentionInputs inputs)
    {
        var exact = new AttentionResult(problem);
        var allowed = new AttentionResult(problem);
        var rounding = new AttentionResult(problem);
        Parallel.For(0, problem.Batch * problem.HeadsKv, pair =>
        {
            int batch = pair / problem.HeadsKv;
            int headKv = pair % problem.HeadsKv;
            var head = new KeyValueHead(problem, inputs, new OracleResult(exact, allowed, rounding), pair);
            for (int g = 0; g < problem.Group; g++)
            {
                head.AddQueryHead(batch * problem.HeadsQ + headKv * problem.Group + g);
            }
        });
        AddOutputRounding(exact.O, allowed.O, problem.Format);
        AddOutputRounding(exact.GradQ, allowed.GradQ, problem.Format);
        AddOutputRounding(exact.GradK, allowed.GradK, problem.Format);
        AddOutputRounding(exact.GradV, allowed.GradV, problem.Format);
        return new OracleResult(exact, allowed, rounding);
    }

    private static void AddOutputRounding(double[] exact, double[] allowed, ElementFormat format)
    {
        for (int i = 0; i < exact.Length; i++)
        {
            allowed[i] += format.Ulp(exact[i]);
        }
    }

    /// <summary>All query heads that read one key/value head.</summary>
    private sealed class KeyValueHead(ProblemCase problem, AttentionInputs inputs, OracleResult result, int pair)
    {
        private readonly AttentionResult exact = result.Exact;
        private readonly AttentionResult allowed = result.Allowed;
        private readonly AttentionResult rounding = result.OneRounding;
        private readonly ErrorModel model = new(problem);
        private readonly int d = problem.HeadDim;
        private readonly int dv = problem.HeadDimV;
        private readonly double scale = problem.EffectiveScale;
        private readonly double[] s = new double[problem.LenKv];
        private readonly double[] p = new double[problem.LenKv];
        private readonly double[] gradP = new double[problem.LenKv];
        private readonly double[] scratch = new double[Math.Max(problem.HeadDim, problem.HeadDimV)];
        private readonly double[] normK = Norms(inputs.K, problem.HeadDim, pair, problem.LenKv);
        private readonly double[] normV = Norms(inputs.V, problem.HeadDimV, pair, problem.LenKv);
        private readonly double[] absK = Absolute(inputs.K, problem.HeadDim, pair, problem.LenKv);
        private readonly double[] absV = Absolute(inputs.V, problem.HeadDimV, pair, problem.LenKv);

        public void AddQueryHead(int headQ)
        {
            for (int i = 0; i < problem.LenQ; i++)
            {
                int row = headQ * problem.LenQ + i;
                int visible = problem.VisibleKeys(i);
                if (visible == 0)
                {
                    exact.Lse[row] = double.NegativeInfinity;
                    continue;
                }
                RowErrors errors = Forward(row, visible);
                Backward(row, visible, errors);
            }
        }

        /// <summary>Relative errors of a row's probabilities, allowed and of one rounding, and the largest norm of the values it sees.</summary>
        private readonly record struct RowErrors(double Probability, double OneRounding, double MaxNormV);

        private RowErrors Forward(int row, int visible)
        {
            ReadOnlySpan<double> q = inputs.Q.AsSpan(row * d, d);
            double max = double.NegativeInfinity;
            for (int j = 0; j < visible; j++)
            {
                s[j] = scale * TensorPrimitives.Dot(q, Row(inputs.K, j, d));
                max = Math.Max(max, s[j]);
            }
            double sum = 0;
            for (int j = 0; j < visible; j++)
            {
                p[j] = Math.Exp(s[j] - max);
                sum += p[j];
            }
            TensorPrimitives.Divide(p.AsSpan(0, visible), sum, p.AsSpan(0, visible));
            double lse = max + Math.Log(sum);

            double maxNormK = FiniteMax(normK, visible);
            double score = model.Score(Norm(q), maxNormK);
            var errors = new RowErrors(model.Probability(score), model.OneRoundingOfProbability(Norm(q), maxNormK), FiniteMax(normV, visible));
            exact.Lse[row] = lse;
            allowed.Lse[row] = model.Lse(score, lse);
            rounding.Lse[row] = errors.OneRounding;
            Span<double> o = exact.O.AsSpan(row * dv, dv);
            Span<double> error = allowed.O.AsSpan(row * dv, dv);
            error.Fill(visible * model.Subnormal * errors.MaxNormV);
            for (int j = 0; j < visible; j++)
            {
                TensorPrimitives.MultiplyAdd(Row(inputs.V, j, dv), p[j], o, o);
                TensorPrimitives.MultiplyAdd(absV.AsSpan(j * dv, dv), p[j] * errors.Probability, error, error);
                Add(rounding.O, row, p[j] * errors.OneRounding, absV.AsSpan(j * dv, dv));
            }
            return errors;
        }

        private void Backward(int row, int visible, RowErrors errors)
        {
            ReadOnlySpan<double> gradO = inputs.GradO.AsSpan(row * dv, dv);
            double gradLse = inputs.GradLse.Length == 0 ? 0 : inputs.GradLse[row];
            for (int j = 0; j < visible; j++)
            {
                gradP[j] = TensorPrimitives.Dot(gradO, Row(inputs.V, j, dv));
            }
            double delta = TensorPrimitives.Dot(p.AsSpan(0, visible), gradP.AsSpan(0, visible));
            double normGradO = Norm(gradO);
            double errorDelta = model.ValueDot(normGradO, errors.MaxNormV);
            for (int c = 0; c < dv; c++)
            {
                // O reaches the backward pass rounded to the format.
                errorDelta += Math.Abs(gradO[c]) * (allowed.O[row * dv + c] + problem.Format.Ulp(exact.O[row * dv + c]));
            }
            double errorGradP = model.ValueDot(normGradO, errors.MaxNormV);
            double roundingGradP = ErrorModel.OneRoundingOfGradP(normGradO, errors.MaxNormV);
            Span<double> absQ = scratch.AsSpan(0, d);
            TensorPrimitives.Abs(inputs.Q.AsSpan(row * d, d), absQ);
            for (int j = 0; j < visible; j++)
            {
                double gradS = p[j] * (gradP[j] - delta + gradLse) * scale;
                double magnitude = Math.Abs(gradP[j]) + Math.Abs(delta) + Math.Abs(gradLse);
                double error = scale * (p[j] * (model.GradScore(errors.Probability) * magnitude + errorDelta + errorGradP) + model.Subnormal)
                    + model.Subnormal;
                double oneRounding = scale * p[j] * (errors.OneRounding * magnitude + roundingGradP);
                Add(exact.GradQ, row, gradS, Row(inputs.K, j, d));
                Add(allowed.GradQ, row, error, absK.AsSpan(j * d, d));
                Add(rounding.GradQ, row, oneRounding, absK.AsSpan(j * d, d));
                int key = pair * problem.LenKv + j;
                Add(exact.GradK, key, gradS, inputs.Q.AsSpan(row * d, d));
                Add(allowed.GradK, key, error, absQ);
                Add(rounding.GradK, key, oneRounding, absQ);
            }
            Span<double> absGradO = scratch.AsSpan(0, dv);
            TensorPrimitives.Abs(gradO, absGradO);
            for (int j = 0; j < visible; j++)
            {
                int key = pair * problem.LenKv + j;
                Add(exact.GradV, key, p[j], gradO);
                Add(allowed.GradV, key, p[j] * errors.Probability + model.Subnormal, absGradO);
                Add(rounding.GradV, key, p[j] * errors.OneRounding, absGradO);
            }
        }

        private ReadOnlySpan<double> Row(double[] keysOrValues, int j, int width) => keysOrValues.AsSpan((pair * problem.LenKv + j) * width, width);

        private static void Add(double[] rows, int row, double factor, ReadOnlySpan<double> vector)
        {
            Span<double> target = rows.AsSpan(row * vector.Length, vector.Length);
            TensorPrimitives.MultiplyAdd(vector, factor, target, target);
        }

        private static double Norm(ReadOnlySpan<double> vector) => Math.Sqrt(TensorPrimitives.SumOfSquares(vector));

        private static double[] Norms(double[] rows, int width, int pair, int count)
        {
            var norms = new double[count];
            for (int j = 0; j < count; j++)
            {
                norms[j] = Norm(rows.AsSpan((pair * count + j) * width, width));
            }
            return norms;
        }

        private static double[] Absolute(double[] rows, int width, int pair, int count)
        {
            var absolute = new double[count * width];
            TensorPrimitives.Abs(rows.AsSpan(pair * count * width, count * width), absolute);
            return absolute;
        }

        // Where a visible key or value is not finite, so is what it reaches; the errors of the rest come from the others.
        private static double FiniteMax(double[] values, int count)
        {
            double max = 0;
            for (int j = 0; j < count; j++)
            {
                if (double.IsFinite(values[j]) && values[j] > max)
                {
                    max = values[j];
                }
            }
            return max;
        }
    }
}
