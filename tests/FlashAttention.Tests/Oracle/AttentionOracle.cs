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
        var result = new OracleResult(new(problem, inputs.Extra), new(problem, inputs.Extra), new(problem, inputs.Extra));
        (AttentionResult exact, AttentionResult allowed, _) = result;
        var rules = new PairRules(problem, inputs.Extra);
        // Positions of no sequence keep this.
        Array.Fill(exact.Lse, double.NegativeInfinity);
        // Gradients of bias and sinks are summed over pairs.
        var parallel = new ParallelOptions { MaxDegreeOfParallelism = exact.GradBias.Length + exact.GradSinks.Length > 0 ? 1 : -1 };
        Parallel.For(0, problem.Batch * problem.HeadsKv, parallel, pair =>
        {
            var head = new KeyValueHead(problem, inputs, rules, result, pair);
            for (int sequence = 0; sequence < rules.Places.Length; sequence++)
            {
                if (rules.Places[sequence].Batch == pair / problem.HeadsKv)
                {
                    head.AddSequence(sequence);
                }
            }
        });
        AddOutputRounding(exact.O, allowed.O, problem.Format);
        AddOutputRounding(exact.GradQ, allowed.GradQ, problem.Format);
        AddOutputRounding(exact.GradK, allowed.GradK, problem.Format);
        AddOutputRounding(exact.GradV, allowed.GradV, problem.Format);
        AddOutputRounding(exact.GradBias, allowed.GradBias, problem.BiasFormat);
        AddOutputRounding(exact.GradSinks, allowed.GradSinks, ElementFormat.Float32);
        return result;
    }

    private static void AddOutputRounding(double[] exact, double[] allowed, ElementFormat format)
    {
        for (int i = 0; i < exact.Length; i++)
        {
            allowed[i] += format.Ulp(exact[i]);
        }
    }

    /// <summary>All query heads that read one key/value head.</summary>
    private sealed class KeyValueHead(ProblemCase problem, AttentionInputs inputs, PairRules rules, OracleResult result, int pair)
    {
        private readonly AttentionResult exact = result.Exact;
        private readonly AttentionResult allowed = result.Allowed;
        private readonly AttentionResult rounding = result.OneRounding;
        private readonly ErrorModel model = new(problem);
        private readonly int d = problem.HeadDim;
        private readonly int dv = problem.HeadDimV;
        private readonly double scale = problem.EffectiveScale;
        private readonly double cap = problem.Variants.Softcap;
        private readonly int[] keys = new int[problem.LenKv];
        private readonly double[] s = new double[problem.LenKv];
        private readonly double[] p = new double[problem.LenKv];
        private readonly double[] tanh = new double[problem.LenKv];
        private readonly double[] keep = new double[problem.LenKv];
        private readonly double[] gradP = new double[problem.LenKv];
        private readonly double[] scratch = new double[Math.Max(problem.HeadDim, problem.HeadDimV)];
        private readonly double[] normK = Norms(inputs.K, problem.HeadDim, pair, problem.LenKv);
        private readonly double[] normV = Norms(inputs.V, problem.HeadDimV, pair, problem.LenKv);
        private readonly double[] absK = Absolute(inputs.K, problem.HeadDim, pair, problem.LenKv);
        private readonly double[] absV = Absolute(inputs.V, problem.HeadDimV, pair, problem.LenKv);

        public void AddSequence(int sequence)
        {
            Place place = rules.Places[sequence];
            int firstHead = pair % problem.HeadsKv * problem.Group;
            for (int head = firstHead; head < firstHead + problem.Group; head++)
            {
                for (int i = 0; i < place.LenQ; i++)
                {
                    int row = (place.Batch * problem.HeadsQ + head) * problem.LenQ + place.FirstQ + i;
                    var at = new RowPlace(row, sequence, head, i, place.FirstKv);
                    int visible = rules.Keys(sequence, head, i, keys);
                    RowErrors errors = Forward(at, visible);
                    Backward(at, visible, errors);
                }
            }
        }

        /// <summary>A row of the tensors, and which query it is.</summary>
        private readonly record struct RowPlace(int Row, int Sequence, int Head, int I, int FirstKv);

        /// <summary>Errors of a row: of its scores, of its probabilities, allowed and of one rounding, relative; the largest norm of the values it sees; and
        /// the probability of
        /// its sink.</summary>
        private readonly record struct RowErrors(double Score, double Probability, double OneRounding, double MaxNormV, double Sink);

        private RowErrors Forward(RowPlace at, int visible)
        {
            ReadOnlySpan<double> q = inputs.Q.AsSpan(at.Row * d, d);
            double sink = rules.Sink(at.Head);
            double max = sink;
            var (maxBias, maxAlibi, maxNormK, maxNormV) = (0.0, 0.0, 0.0, 0.0);
            for (int n = 0; n < visible; n++)
            {
                int key = at.FirstKv + keys[n];
                s[n] = scale * TensorPrimitives.Dot(q, Row(inputs.K, key, d));
                if (cap > 0)
                {
                    tanh[n] = Math.Tanh(s[n] / cap);
                    s[n] = cap * tanh[n];
                }
                double bias = rules.Bias(at.Sequence, at.Head, at.I, keys[n]);
                double alibi = rules.Alibi(at.Sequence, at.Head, at.I, keys[n]);
                s[n] = s[n] + bias - alibi;
                keep[n] = rules.Keep(at.Sequence, at.Head, at.I, keys[n]);
                max = Math.Max(max, s[n]);
                maxBias = Math.Max(maxBias, Math.Abs(bias));
                maxAlibi = Math.Max(maxAlibi, Math.Abs(alibi));
                maxNormK = FiniteMax(maxNormK, normK[key]);
                maxNormV = FiniteMax(maxNormV, normV[key]);
            }
            if (visible == 0)
            {
                exact.Lse[at.Row] = sink;
                return new RowErrors(0, 0, 0, 0, double.IsFinite(sink) ? 1 : 0);
            }
            double fromSink = Math.Exp(sink - max);
            double sum = fromSink;
            for (int n = 0; n < visible; n++)
            {
                p[n] = Math.Exp(s[n] - max);
                sum += p[n];
            }
            TensorPrimitives.Divide(p.AsSpan(0, visible), sum, p.AsSpan(0, visible));
            double lse = max + Math.Log(sum);

            double score = model.Score(Norm(q), maxNormK) + ErrorModel.Modifiers(cap, maxBias, maxAlibi);
            double oneRounding = model.OneRoundingOfProbability(Norm(q), maxNormK) + ErrorModel.OneRoundingOfModifiers(cap, maxBias, maxAlibi);
            double probability = model.Probability(score) + (problem.Variants.Dropout > 0 ? ErrorModel.KeepScale : 0);
            exact.Lse[at.Row] = lse;
            allowed.Lse[at.Row] = model.Lse(score, lse);
            rounding.Lse[at.Row] = oneRounding;
            Span<double> o = exact.O.AsSpan(at.Row * dv, dv);
            Span<double> error = allowed.O.AsSpan(at.Row * dv, dv);
            error.Fill(visible * model.Subnormal * maxNormV * TensorPrimitives.Max<double>(keep.AsSpan(0, visible)));
            for (int n = 0; n < visible; n++)
            {
                int key = at.FirstKv + keys[n];
                double kept = p[n] * keep[n];
                TensorPrimitives.MultiplyAdd(Row(inputs.V, key, dv), kept, o, o);
                TensorPrimitives.MultiplyAdd(absV.AsSpan(key * dv, dv), kept * probability, error, error);
                Add(rounding.O, at.Row, kept * oneRounding, absV.AsSpan(key * dv, dv));
            }
            return new RowErrors(score, probability, oneRounding, maxNormV, fromSink / sum);
        }

        private void Backward(RowPlace at, int visible, RowErrors errors)
        {
            ReadOnlySpan<double> gradO = inputs.GradO.AsSpan(at.Row * dv, dv);
            double gradLse = inputs.GradLse.Length == 0 ? 0 : inputs.GradLse[at.Row];
            double delta = 0;
            double maxKeep = 1;
            for (int n = 0; n < visible; n++)
            {
                gradP[n] = keep[n] * TensorPrimitives.Dot(gradO, Row(inputs.V, at.FirstKv + keys[n], dv));
                delta += p[n] * gradP[n];
                maxKeep = Math.Max(maxKeep, keep[n]);
            }
            double normGradO = Norm(gradO);
            double errorGradP = maxKeep * model.ValueDot(normGradO, errors.MaxNormV);
            double errorDelta = errorGradP;
            double storedO = 0;
            for (int c = 0; visible > 0 && c < dv; c++)
            {
                // O reaches the backward pass rounded to the format.
                double ulp = problem.Format.Ulp(exact.O[at.Row * dv + c]);
                errorDelta += Math.Abs(gradO[c]) * (allowed.O[at.Row * dv + c] + ulp);
                storedO += Math.Pow(gradO[c] * ulp / 2, 2);
            }
            // Where variants leave a tensor with few pairs, the naive form's error is that of a few draws, lucky ones among them: the rounding of O, which
            // the contract asks of
            // every implementation, counts as the one rounding then.
            double roundingGradP = maxKeep * ErrorModel.OneRoundingOfGradP(normGradO, errors.MaxNormV)
                + (problem.Variants == Variants.None ? 0 : Math.Sqrt(storedO));
            AddSink(at, errors, gradLse, delta, errorDelta, roundingGradP);
            Span<double> absQ = scratch.AsSpan(0, d);
            TensorPrimitives.Abs(inputs.Q.AsSpan(at.Row * d, d), absQ);
            for (int n = 0; n < visible; n++)
            {
                double gradS = p[n] * (gradP[n] - delta + gradLse);
                double magnitude = Math.Abs(gradP[n]) + Math.Abs(delta) + Math.Abs(gradLse);
                double error = p[n] * (model.GradScore(errors.Probability) * magnitude + errorDelta + errorGradP) + model.Subnormal;
                double oneRounding = p[n] * (errors.OneRounding * magnitude + roundingGradP);
                AddBias(at, keys[n], gradS, error, oneRounding);
                if (cap > 0)
                {
                    double slope = 1 - tanh[n] * tanh[n];
                    double slopeError = ErrorModel.CapSlope(tanh[n], errors.Score, cap);
                    error = error * (slope + slopeError) + p[n] * magnitude * slopeError;
                    oneRounding = oneRounding * slope + p[n] * magnitude * ErrorModel.OneRoundingOfCapSlope(tanh[n], errors.OneRounding, cap);
                    gradS *= slope;
                }
                gradS *= scale;
                error = scale * error + model.Subnormal;
                oneRounding *= scale;
                int local = at.FirstKv + keys[n];
                int key = pair * problem.LenKv + local;
                Add(exact.GradQ, at.Row, gradS, Row(inputs.K, local, d));
                Add(allowed.GradQ, at.Row, error, absK.AsSpan(local * d, d));
                Add(rounding.GradQ, at.Row, oneRounding, absK.AsSpan(local * d, d));
                Add(exact.GradK, key, gradS, inputs.Q.AsSpan(at.Row * d, d));
                Add(allowed.GradK, key, error, absQ);
                Add(rounding.GradK, key, oneRounding, absQ);
            }
            Span<double> absGradO = scratch.AsSpan(0, dv);
            TensorPrimitives.Abs(gradO, absGradO);
            for (int n = 0; n < visible; n++)
            {
                int key = pair * problem.LenKv + at.FirstKv + keys[n];
                Add(exact.GradV, key, p[n] * keep[n], gradO);
                Add(allowed.GradV, key, (p[n] * errors.Probability + model.Subnormal) * keep[n], absGradO);
                Add(rounding.GradV, key, p[n] * keep[n] * errors.OneRounding, absGradO);
            }
        }

        /// <summary>The sink is a key whose value is 0: dP = 0 there, and dropout does not reach it.</summary>
        private void AddSink(RowPlace at, RowErrors errors, double gradLse, double delta, double errorDelta, double roundingGradP)
        {
            if (exact.GradSinks.Length == 0)
            {
                return;
            }
            double magnitude = Math.Abs(gradLse) + Math.Abs(delta);
            double relative = Math.Max(errors.Probability - problem.Format.UnitRoundoff, 0) + ErrorModel.Sum(problem.Batch * (double)problem.LenQ);
            exact.GradSinks[at.Head] += errors.Sink * (gradLse - delta);
            allowed.GradSinks[at.Head] += errors.Sink * (relative * magnitude + (errors.MaxNormV > 0 ? errorDelta : 0));
            rounding.GradSinks[at.Head] += errors.Sink * (errors.OneRounding * magnitude + roundingGradP);
        }

        private void AddBias(RowPlace at, int key, double gradS, double error, double oneRounding)
        {
            if (exact.GradBias.Length == 0)
            {
                return;
            }
            int index = rules.BiasIndex(at.Sequence, at.Head, at.I, key);
            double summands = (double)problem.LseCount * problem.LenKv / exact.GradBias.Length;
            exact.GradBias[index] += gradS;
            allowed.GradBias[index] += error + ErrorModel.Sum(summands) * Math.Abs(gradS);
            rounding.GradBias[index] += oneRounding;
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
        private static double FiniteMax(double max, double value) => double.IsFinite(value) && value > max ? value : max;
    }
}
