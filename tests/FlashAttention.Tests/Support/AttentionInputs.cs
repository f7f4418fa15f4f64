namespace FlashAttention.Tests;

/// <summary>Dense inputs of a case, ordered (batch, heads, sequence, head_dim), every value rounded to the format.</summary>
internal sealed class AttentionInputs
{
    public required double[] Q { get; init; }
    public required double[] K { get; init; }
    public required double[] V { get; init; }
    public required double[] GradO { get; init; }

    /// <summary>(batch, heads_q, len_q), fp32 values; empty if the case has none.</summary>
    public required double[] GradLse { get; init; }

    public VariantData Extra { get; init; } = VariantData.Empty;

    /// <summary>Random inputs of a case: the same seed gives the same values on every machine.</summary>
    public static AttentionInputs Create(ProblemCase problem)
    {
        var random = new GaussianSource(problem.Seed);
        // Logits are scale * q.k with standard deviation scale * sqrt(head_dim) * (spread of q) * (spread of k); 60 * 60 = 3600 gives extremes of about 1e4.
        double spread = problem.Inputs == InputKind.LargeLogits ? Math.Sqrt(3600 / (problem.EffectiveScale * Math.Sqrt(problem.HeadDim))) : 1;
        double[] q = Fill(random, problem, problem.SizesQ, spread);
        double[] k = Fill(random, problem, problem.SizesK, spread);
        double[] v = Fill(random, problem, problem.SizesV, 1);
        double[] gradO = Fill(random, problem, problem.SizesO, 1);
        double[] gradLse = problem.GradLse ? new double[problem.LseCount] : [];
        for (int i = 0; i < gradLse.Length; i++)
        {
            gradLse[i] = (float)random.Next();
        }
        if (problem.Layout == Layout.Broadcast)
        {
            RepeatFirstBatch(k, problem.SizesK);
            RepeatFirstHead(v, problem.SizesV);
        }
        VariantData extra = problem.Variants == Variants.None ? VariantData.Empty : VariantData.Create(problem);
        var inputs = new AttentionInputs { Q = q, K = k, V = v, GradO = gradO, GradLse = gradLse, Extra = extra };
        inputs.PlaceSpecialValues(problem);
        return inputs;
    }

    private static double[] Fill(GaussianSource random, ProblemCase problem, long[] sizes, double spread)
    {
        var values = new double[sizes[0] * sizes[1] * sizes[2] * sizes[3]];
        long perHead = sizes[1] * sizes[3];
        for (int i = 0; i < values.Length; i++)
        {
            // A mean per head makes heads distinct in distribution too, so that a wrong head cannot pass for the right one.
            double mean = 0.125 * (i / perHead % sizes[2] % 5 - 2);
            values[i] = problem.Format.Round((random.Next() + mean) * spread);
        }
        return values;
    }

    private void PlaceSpecialValues(ProblemCase problem)
    {
        if (problem.Batch == 0 || problem.LenQ == 0 || problem.LenKv == 0)
        {
            return;
        }
        int d = problem.HeadDim;
        int dv = problem.HeadDimV;
        switch (problem.Inputs)
        {
            case InputKind.NanQuery:
                int row = problem.LenQ / 2;
                Q[((problem.Batch * problem.HeadsQ - 1) * problem.LenQ + row) * d + d / 2] = double.NaN;
                break;
            case InputKind.NanKey when problem.Layout != Layout.Broadcast:
                K[^1] = double.NaN;
                V[^1] = double.NaN;
                break;
            case InputKind.InfiniteValue when problem.Layout != Layout.Broadcast:
                V[^dv] = double.PositiveInfinity;
                break;
            case InputKind.HiddenNan when problem.Variants != Variants.None:
                HideBehindVariants(problem);
                break;
            case InputKind.HiddenNan:
                int seen = problem.LenQ == 0 ? 0 : problem.VisibleKeys(problem.LenQ - 1);
                for (int head = 0; head < problem.Batch * problem.HeadsKv; head++)
                {
                    K.AsSpan((head * problem.LenKv + seen) * d, (problem.LenKv - seen) * d).Fill(double.NaN);
                    V.AsSpan((head * problem.LenKv + seen) * dv, (problem.LenKv - seen) * dv).Fill(double.NaN);
                }
                break;
        }
    }

    /// <summary>NaN in all that nothing may read: keys and values that no query sees, queries of no sequence, bias of hidden pairs.</summary>
    private void HideBehindVariants(ProblemCase problem)
    {
        var rules = new PairRules(problem, Extra);
        var seenKeys = new bool[problem.Batch * problem.HeadsKv * problem.LenKv];
        var usedQueries = new bool[problem.LseCount];
        var seenBias = new bool[Extra.Bias.Length];
        for (int sequence = 0; sequence < rules.Places.Length; sequence++)
        {
            Place place = rules.Places[sequence];
            for (int head = 0; head < problem.HeadsQ; head++)
            {
                int pair = place.Batch * problem.HeadsKv + head / problem.Group;
                for (int i = 0; i < place.LenQ; i++)
                {
                    usedQueries[(place.Batch * problem.HeadsQ + head) * problem.LenQ + place.FirstQ + i] = true;
                    for (int j = 0; j < place.LenKv; j++)
                    {
                        seenKeys[pair * problem.LenKv + place.FirstKv + j] |= rules.Sees(sequence, head, i, j);
                        if (seenBias.Length > 0)
                        {
                            seenBias[rules.BiasIndex(sequence, head, i, j)] |= rules.SeesWithoutBias(sequence, head, i, j);
                        }
                    }
                }
            }
        }
        FillWhereUnset(seenKeys, K, problem.HeadDim);
        FillWhereUnset(seenKeys, V, problem.HeadDimV);
        FillWhereUnset(usedQueries, Q, problem.HeadDim);
        FillWhereUnset(usedQueries, GradO, problem.HeadDimV);
        FillWhereUnset(seenBias, Extra.Bias, 1);
        if (GradLse.Length > 0)
        {
            FillWhereUnset(usedQueries, GradLse, 1);
        }
    }

    private static void FillWhereUnset(bool[] set, double[] values, int width)
    {
        for (int row = 0; row < set.Length; row++)
        {
            if (!set[row])
            {
                values.AsSpan(row * width, width).Fill(double.NaN);
            }
        }
    }

    private static void RepeatFirstBatch(double[] values, long[] sizes)
    {
        int batch = (int)(sizes[1] * sizes[2] * sizes[3]);
        for (int b = 1; b < sizes[0]; b++)
        {
            values.AsSpan(0, batch).CopyTo(values.AsSpan(b * batch));
        }
    }

    private static void RepeatFirstHead(double[] values, long[] sizes)
    {
        int head = (int)(sizes[1] * sizes[3]);
        int batch = (int)(head * sizes[2]);
        for (int b = 0; b < sizes[0]; b++)
        {
            for (int h = 1; h < sizes[2]; h++)
            {
                values.AsSpan(b * batch, head).CopyTo(values.AsSpan(b * batch + h * head));
            }
        }
    }
}

/// <summary>Standard normal numbers from a fixed algorithm (SplitMix64 and Box-Muller), so that a seed means the same inputs everywhere and always.</summary>
internal sealed class GaussianSource(int seed)
{
    private ulong state = (ulong)seed * 0x9E37_79B9_7F4A_7C15ul;
    private double spare = double.NaN;

    /// <summary>Uniform in [0, 1).</summary>
    public double NextUniform()
    {
        state += 0x9E37_79B9_7F4A_7C15ul;
        ulong z = state;
        z = (z ^ (z >> 30)) * 0xBF58_476D_1CE4_E5B9ul;
        z = (z ^ (z >> 27)) * 0x94D0_49BB_1331_11EBul;
        return ((z ^ (z >> 31)) >> 11) * (1.0 / (1ul << 53));
    }

    public double Next()
    {
        if (!double.IsNaN(spare))
        {
            double value = spare;
            spare = double.NaN;
            return value;
        }
        double radius = Math.Sqrt(-2 * Math.Log(1 - NextUniform()));
        double angle = 2 * Math.PI * NextUniform();
        spare = radius * Math.Sin(angle);
        return radius * Math.Cos(angle);
    }
}
