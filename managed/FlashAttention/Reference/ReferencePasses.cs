using System.Numerics;
using System.Numerics.Tensors;

namespace FlashAttention;

/// <summary>How intermediate matrices are stored.</summary>
internal interface IRounding<TNumber>
{
    static abstract TNumber Round(TNumber value);
}

/// <summary>As computed.</summary>
internal readonly struct Unrounded : IRounding<double>
{
    public static double Round(double value) => value;
}

/// <summary>Rounded to an element type.</summary>
internal readonly struct RoundedTo<T> : IRounding<float>
    where T : unmanaged
{
    public static float Round(float value) => ElementType<T>.Round(value);
}

/// <summary>Both passes from the definition, row by row. Arrays are in the order (batch, heads, sequence, head_dim).</summary>
/// <remarks>With P = softmax(S) over the visible keys and the sink, and K = keep / (1 − rate): O = (P ∘ K) V, dV = (P ∘ K)ᵀ dO, dP = K ∘ dO Vᵀ, dS = P ∘ (dP
/// − rowsum(P ∘ dP) + dLse),
/// dBias = dS, dSink = P_sink · (dLse − rowsum(P ∘ dP)), and through the softcap dS ∘ (1 − tanh²) to dQ = scale · dS K, dK = scale · dSᵀ Q.</remarks>
/// <typeparam name="TNumber">Type of all sums.</typeparam>
/// <typeparam name="TRounding">What each matrix (scaled queries, scores, probabilities, gradients) is stored in.</typeparam>
internal sealed class ReferencePasses<TNumber, TRounding>(ReferenceProblem problem, TNumber[] q, TNumber[] k, TNumber[] v)
    where TNumber : unmanaged, IBinaryFloatingPointIeee754<TNumber>
    where TRounding : struct, IRounding<TNumber>
{
    private readonly ReferenceSizes _sizes = problem.Sizes;
    private readonly TNumber _scale = TNumber.CreateTruncating(problem.Scale);

    public TNumber[] O { get; } = new TNumber[problem.Sizes.Batch * problem.Sizes.HeadsQ * problem.Sizes.LengthQ * problem.Sizes.HeadDimV];

    public TNumber[] Lse { get; } = new TNumber[problem.Sizes.Batch * problem.Sizes.HeadsQ * problem.Sizes.LengthQ];

    public TNumber[] GradQ { get; } = new TNumber[q.Length];

    public TNumber[] GradK { get; } = new TNumber[k.Length];

    public TNumber[] GradV { get; } = new TNumber[v.Length];

    public TNumber[] GradBias { get; } = new TNumber[problem.Bias?.Length ?? 0];

    public TNumber[] GradSinks { get; } = new TNumber[problem.SinkCount];

    public void Forward()
    {
        // Positions of no sequence keep this value, sinks or not.
        Array.Fill(Lse, TNumber.NegativeInfinity);
        Parallel.For(0, problem.Places.Length * _sizes.HeadsQ, index => ForwardHead(index / _sizes.HeadsQ, index % _sizes.HeadsQ));
    }

    public void Backward(TNumber[] gradO, TNumber[] gradLse)
    {
        // Sums over several heads must have one order, so that results are the same in every run.
        ParallelOptions parallel = new() { MaxDegreeOfParallelism = problem.HasSharedGradients ? 1 : -1 };
        Parallel.For(0, problem.Places.Length * _sizes.HeadsKv, parallel, index =>
            BackwardGroup(index / _sizes.HeadsKv, index % _sizes.HeadsKv, gradO, gradLse));
        if (problem.BiasIsRounded)
        {
            RoundAll(GradBias);
        }
    }

    private static void RoundAll(Span<TNumber> values)
    {
        for (int i = 0; i < values.Length; ++i)
        {
            values[i] = TRounding.Round(values[i]);
        }
    }

    private void ForwardHead(int sequence, int head)
    {
        SequencePlace place = problem.Places[sequence];
        Row row = new(_sizes, place.LengthKv);
        for (int i = 0; i < place.LengthQ; ++i)
        {
            int index = Fill(row, sequence, head, i);
            Lse[index] = row.Lse;
            Span<TNumber> output = O.AsSpan(index * _sizes.HeadDimV, _sizes.HeadDimV);
            for (int n = 0; n < row.Count; ++n)
            {
                TNumber p = row.P[n] * TNumber.CreateTruncating(problem.KeepFactor(sequence, head, i, row.Keys[n]));
                TensorPrimitives.MultiplyAdd(Value(place, head, row.Keys[n]), p, output, output);
            }

            RoundAll(output);
        }
    }

    private void BackwardGroup(int sequence, int kvHead, TNumber[] gradO, TNumber[] gradLse)
    {
        SequencePlace place = problem.Places[sequence];
        TNumber[] headK = new TNumber[place.LengthKv * _sizes.HeadDim];
        TNumber[] headV = new TNumber[place.LengthKv * _sizes.HeadDimV];
        int firstKey = (((place.Batch * _sizes.HeadsKv) + kvHead) * _sizes.LengthKv) + place.FirstKv;
        Span<TNumber> gradK = GradK.AsSpan(firstKey * _sizes.HeadDim, headK.Length);
        Span<TNumber> gradV = GradV.AsSpan(firstKey * _sizes.HeadDimV, headV.Length);
        Row row = new(_sizes, place.LengthKv);
        for (int head = kvHead * _sizes.GroupSize; head < (kvHead + 1) * _sizes.GroupSize; ++head)
        {
            Array.Clear(headK);
            Array.Clear(headV);
            for (int i = 0; i < place.LengthQ; ++i)
            {
                BackwardRow(row, sequence, head, i, gradO, gradLse, headK, headV);
            }

            // Each head's gradients are matrices of their own, and so is the sum over the group.
            RoundAll(headK);
            RoundAll(headV);
            TensorPrimitives.Add(gradK, headK, gradK);
            TensorPrimitives.Add(gradV, headV, gradV);
        }

        RoundAll(gradK);
        RoundAll(gradV);
    }

    private void BackwardRow(Row row, int sequence, int head, int i, TNumber[] gradO, TNumber[] gradLse, TNumber[] headK, TNumber[] headV)
    {
        SequencePlace place = problem.Places[sequence];
        int index = Fill(row, sequence, head, i);
        ReadOnlySpan<TNumber> gradOutput = gradO.AsSpan(index * _sizes.HeadDimV, _sizes.HeadDimV);
        TNumber fromLse = gradLse.Length == 0 ? TNumber.Zero : gradLse[index];
        TNumber mean = TNumber.Zero;
        for (int n = 0; n < row.Count; ++n)
        {
            row.Keep[n] = TNumber.CreateTruncating(problem.KeepFactor(sequence, head, i, row.Keys[n]));
            row.GradP[n] = TRounding.Round(row.Keep[n] * TensorPrimitives.Dot(gradOutput, Value(place, head, row.Keys[n])));
            mean += row.P[n] * row.GradP[n];
        }

        if (GradSinks.Length > 0)
        {
            GradSinks[head] += row.SinkProbability * (fromLse - mean);
        }

        Span<TNumber> gradQuery = GradQ.AsSpan(index * _sizes.HeadDim, _sizes.HeadDim);
        for (int n = 0; n < row.Count; ++n)
        {
            int key = row.Keys[n];
            TNumber gradScore = TRounding.Round(row.P[n] * (row.GradP[n] - mean + fromLse));
            if (problem.Bias is { } bias)
            {
                GradBias[bias.Index(sequence, head, i, key)] += gradScore;
            }

            gradScore = problem.Softcap is null ? gradScore : TRounding.Round(gradScore * row.CapSlope[n]);
            TensorPrimitives.MultiplyAdd(Key(place, head, key), gradScore, gradQuery, gradQuery);
            Span<TNumber> gradKey = headK.AsSpan(key * _sizes.HeadDim, _sizes.HeadDim);
            Span<TNumber> gradValue = headV.AsSpan(key * _sizes.HeadDimV, _sizes.HeadDimV);
            TensorPrimitives.MultiplyAdd(row.ScaledQuery, gradScore, gradKey, gradKey);
            TensorPrimitives.MultiplyAdd(gradOutput, TRounding.Round(row.P[n] * row.Keep[n]), gradValue, gradValue);
        }

        RoundAll(gradQuery);
        TensorPrimitives.Multiply(gradQuery, _scale, gradQuery);
        RoundAll(gradQuery);
    }

    /// <summary>Probabilities of one row; returns its index in the tensors.</summary>
    private int Fill(Row row, int sequence, int head, int i)
    {
        SequencePlace place = problem.Places[sequence];
        int index = (((place.Batch * _sizes.HeadsQ) + head) * _sizes.LengthQ) + place.FirstQ + i;
        TensorPrimitives.Multiply(q.AsSpan(index * _sizes.HeadDim, _sizes.HeadDim), _scale, row.ScaledQuery);
        RoundAll(row.ScaledQuery);
        row.Count = problem.VisibleKeys(sequence, head, i, row.Keys);
        TNumber sink = TNumber.CreateTruncating(problem.Sink(head));
        TNumber largest = sink;
        for (int n = 0; n < row.Count; ++n)
        {
            int key = row.Keys[n];
            TNumber score = TRounding.Round(TensorPrimitives.Dot<TNumber>(row.ScaledQuery, Key(place, head, key)));
            if (problem.Softcap is { } softcap)
            {
                TNumber cap = TNumber.CreateTruncating(softcap);
                TNumber tanh = TNumber.Tanh(score / cap);
                row.CapSlope[n] = TNumber.One - (tanh * tanh);
                score = TRounding.Round(cap * tanh);
            }

            score = problem.Bias is { } bias ? TRounding.Round(score + TNumber.CreateTruncating(bias[sequence, head, i, key])) : score;
            row.P[n] = TRounding.Round(score - TNumber.CreateTruncating(problem.Distance(sequence, head, i, key)));
            largest = TNumber.Max(largest, row.P[n]);
        }

        Normalise(row, largest, sink);
        return index;
    }

    private static void Normalise(Row row, TNumber largest, TNumber sink)
    {
        Span<TNumber> p = row.P.AsSpan(0, row.Count);
        TNumber fromSink = TNumber.IsNegativeInfinity(sink) ? TNumber.Zero : TNumber.Exp(sink - largest);
        TNumber sum = fromSink;
        for (int n = 0; n < p.Length; ++n)
        {
            p[n] = TNumber.Exp(p[n] - largest);
            sum += p[n];
        }

        for (int n = 0; n < p.Length; ++n)
        {
            p[n] = TRounding.Round(p[n] / sum);
        }

        row.SinkProbability = TNumber.IsZero(fromSink) ? TNumber.Zero : fromSink / sum;

        // An infinite largest score makes the sum NaN, but its logarithm is known from the definition.
        row.Lse = TNumber.IsInfinity(largest) ? largest : largest + TNumber.Log(sum);
    }

    private ReadOnlySpan<TNumber> Key(SequencePlace place, int head, int key) => Vector(k, place, head, key, _sizes.HeadDim);

    private ReadOnlySpan<TNumber> Value(SequencePlace place, int head, int key) => Vector(v, place, head, key, _sizes.HeadDimV);

    private ReadOnlySpan<TNumber> Vector(TNumber[] rows, SequencePlace place, int head, int key, int width) =>
        rows.AsSpan(((((place.Batch * _sizes.HeadsKv) + (head / _sizes.GroupSize)) * _sizes.LengthKv) + place.FirstKv + key) * width, width);

    /// <summary>What one row needs, kept from row to row.</summary>
    private sealed class Row(ReferenceSizes sizes, int keys)
    {
        public int[] Keys { get; } = new int[keys];

        public TNumber[] P { get; } = new TNumber[keys];

        public TNumber[] GradP { get; } = new TNumber[keys];

        public TNumber[] Keep { get; } = new TNumber[keys];

        /// <summary>Derivative of the softcap at each score.</summary>
        public TNumber[] CapSlope { get; } = new TNumber[keys];

        public TNumber[] ScaledQuery { get; } = new TNumber[sizes.HeadDim];

        public int Count { get; set; }

        public TNumber Lse { get; set; }

        public TNumber SinkProbability { get; set; }
    }
}
