namespace FlashAttention.Tests;

/// <summary>The numbers that go with the variants of a case, dense, every value rounded to its format.</summary>
internal sealed class VariantData
{
    public static readonly VariantData Empty = new();

    /// <summary>heads_q, or sequences x heads_q.</summary>
    public double[] Slopes { get; init; } = [];
    public double[] Sinks { get; init; } = [];
    public double[] Bias { get; init; } = [];
    public double[] Visible { get; init; } = [];
    public double[] Blocks { get; init; } = [];
    public int[] OffsetsQ { get; init; } = [];
    public int[] OffsetsKv { get; init; } = [];
    public int[] UsedQ { get; init; } = [];
    public int[] UsedKv { get; init; } = [];

    /// <summary>Number of sequences.</summary>
    public int Count { get; init; }

    /// <summary>Rows and columns of tensors over pairs: of the longest sequence.</summary>
    public int Rows { get; init; }
    public int Columns { get; init; }

    public static VariantData Create(ProblemCase problem)
    {
        Variants variants = problem.Variants;
        var random = new GaussianSource(problem.Seed + 7_654_321);
        int count = variants.IsPacked ? 4 : problem.Batch;
        int[] offsetsQ = variants.IsPacked ? Partition(random, problem.LenQ, count, empty: 1) : [];
        int[] offsetsKv = variants.IsPacked ? Partition(random, problem.LenKv, count, empty: 2) : [];
        bool hasUsed = variants.Sequences is not (SequenceKind.None or SequenceKind.Packed);
        var sizes = new VariantData
        {
            Count = count,
            Rows = variants.IsPacked ? Longest(offsetsQ) + 3 : problem.LenQ,
            Columns = variants.IsPacked ? Longest(offsetsKv) + 2 : problem.LenKv,
        };
        return new VariantData
        {
            Count = count,
            Rows = sizes.Rows,
            Columns = sizes.Columns,
            OffsetsQ = offsetsQ,
            OffsetsKv = offsetsKv,
            UsedQ = hasUsed && variants.Sequences != SequenceKind.UsedKv ? Used(random, offsetsQ, problem.LenQ, count) : [],
            UsedKv = hasUsed ? Used(random, offsetsKv, problem.LenKv, count) : [],
            Slopes = variants.Alibi == AlibiKind.None ? []
                : Fill((variants.Alibi == AlibiKind.PerBatch ? count : 1) * problem.HeadsQ, _ => (float)(0.5 * random.NextUniform() - 0.05)),
            Sinks = variants.Sinks ? Fill(problem.HeadsQ, _ => (float)random.Next()) : [],
            Bias = Fill(sizes.PairCount(problem, variants.Bias), _ => BiasValue(random, problem)),
            Visible = Fill(sizes.PairCount(problem, variants.Visible), _ => random.NextUniform() < 0.7 ? 1 : 0),
            Blocks = variants.Block is null ? [] : Fill(Product(sizes.BlockSizes(problem)), _ => random.NextUniform() < 0.6 ? 1 : 0),
        };
    }

    /// <summary>Sizes (batch, heads, queries, keys) of a tensor over pairs.</summary>
    public long[] PairSizes(ProblemCase problem, PairShape shape) => shape switch
    {
        PairShape.Shared => [1, 1, Rows, Columns],
        PairShape.Keys => [Count, 1, 1, Columns],
        PairShape.HeadKeys => [1, problem.HeadsQ, 1, Columns],
        PairShape.Heads => [1, problem.HeadsQ, Rows, Columns],
        _ => [Count, problem.HeadsQ, Rows, Columns],
    };

    public long[] BlockSizes(ProblemCase problem)
    {
        (int q, int kv) = problem.Variants.Block!.Value;
        return [1, problem.Variants.BlockPerHead ? problem.HeadsQ : 1, (Rows + q - 1) / q, (Columns + kv - 1) / kv];
    }

    /// <summary>Index of a pair in a dense tensor over pairs.</summary>
    public static int At(long[] sizes, int sequence, int head, int i, int j)
    {
        long index = sizes[0] == 1 ? 0 : sequence;
        index = index * sizes[1] + (sizes[1] == 1 ? 0 : head);
        index = index * sizes[2] + (sizes[2] == 1 ? 0 : i);
        return checked((int)(index * sizes[3] + j));
    }

    private int PairCount(ProblemCase problem, PairShape shape) => shape == PairShape.None ? 0 : Product(PairSizes(problem, shape));

    private static int Product(long[] sizes) => checked((int)(sizes[0] * sizes[1] * sizes[2] * sizes[3]));

    private static double BiasValue(GaussianSource random, ProblemCase problem)
    {
        double value = random.Next();
        if (random.NextUniform() < 0.05)
        {
            return double.NegativeInfinity;
        }
        return problem.BiasFormat.Round(value);
    }

    private static double[] Fill(int count, Func<int, double> value) => Enumerable.Range(0, count).Select(value).ToArray();

    // Offsets of sequences of random lengths; one of them is empty, and so a query length meets no keys or keys meet no query somewhere.
    private static int[] Partition(GaussianSource random, int total, int count, int empty)
    {
        var cuts = Enumerable.Range(0, count - 2).Select(_ => (int)(random.NextUniform() * (total + 1))).Order().ToList();
        cuts.Insert(0, 0);
        cuts.Add(total);
        cuts.Insert(empty, cuts[empty]);
        return [.. cuts];
    }

    private static int Longest(int[] offsets) => Enumerable.Range(1, offsets.Length - 1).Max(b => offsets[b] - offsets[b - 1]);

    private static int[] Used(GaussianSource random, int[] offsets, int length, int count) =>
        Enumerable.Range(0, count).Select(b => (int)(random.NextUniform() * ((offsets.Length == 0 ? length : offsets[b + 1] - offsets[b]) + 1))).ToArray();
}

/// <summary>Where a sequence's used positions lie.</summary>
internal readonly record struct Place(int Batch, int FirstQ, int LenQ, int FirstKv, int LenKv);

/// <summary>Which pairs of a case see each other and what modifies their scores: the contract's sentences, pair by pair.</summary>
internal sealed class PairRules
{
    private readonly ProblemCase problem;
    private readonly Variants variants;
    private readonly VariantData data;
    private readonly long[] biasSizes;
    private readonly long[] visibleSizes;
    private readonly long[] blockSizes;

    public PairRules(ProblemCase problem, VariantData data)
    {
        this.problem = problem;
        this.data = data;
        variants = problem.Variants;
        biasSizes = data.PairSizes(problem, variants.Bias);
        visibleSizes = data.PairSizes(problem, variants.Visible);
        blockSizes = variants.Block is null ? [] : data.BlockSizes(problem);
        Places = Enumerable.Range(0, variants.IsPacked ? data.Count : problem.Batch).Select(PlaceOf).ToArray();
    }

    public Place[] Places { get; }

    public double Sink(int head) => variants.Sinks ? data.Sinks[head] : double.NegativeInfinity;

    public int BiasIndex(int sequence, int head, int i, int j) => VariantData.At(biasSizes, sequence, head, i, j);

    public double Bias(int sequence, int head, int i, int j) => variants.Bias == PairShape.None ? 0 : data.Bias[BiasIndex(sequence, head, i, j)];

    /// <summary>What ALiBi takes off.</summary>
    public double Alibi(int sequence, int head, int i, int j) => variants.Alibi switch
    {
        AlibiKind.PerHead => data.Slopes[head] * Math.Abs(Position(sequence, i) - j),
        AlibiKind.PerBatch => data.Slopes[sequence * problem.HeadsQ + head] * Math.Abs(Position(sequence, i) - j),
        _ => 0,
    };

    /// <summary>0 for a dropped pair, 1 / (1 - dropout) for a kept one.</summary>
    public double Keep(int sequence, int head, int i, int j)
    {
        if (variants.Dropout == 0)
        {
            return 1;
        }
        return PhiloxOracle.Keeps(variants.Dropout, problem.DropoutSeed, problem.DropoutOffset, sequence * problem.HeadsQ + head, i, j)
            ? 1 / (1 - (double)variants.Dropout) : 0;
    }

    /// <summary>Fills the keys that a query sees, counted within its sequence.</summary>
    public int Keys(int sequence, int head, int i, int[] keys)
    {
        int count = 0;
        for (int j = 0; j < Places[sequence].LenKv; j++)
        {
            if (Sees(sequence, head, i, j))
            {
                keys[count++] = j;
            }
        }
        return count;
    }

    public bool Sees(int sequence, int head, int i, int j) =>
        SeesWithoutBias(sequence, head, i, j) && (variants.Bias == PairShape.None || !double.IsNegativeInfinity(Bias(sequence, head, i, j)));

    public bool SeesWithoutBias(int sequence, int head, int i, int j)
    {
        int position = Position(sequence, i);
        bool band = variants.Window is { } window
            ? (window.Left < 0 || position - window.Left <= j) && (window.Right < 0 || j <= position + window.Right)
            : problem.Mask == MaskKind.None || j <= position;
        return band
            && (variants.Chunk == 0 || Math.Floor((double)position / variants.Chunk) == Math.Floor((double)j / variants.Chunk))
            && (variants.Visible == PairShape.None || data.Visible[VariantData.At(visibleSizes, sequence, head, i, j)] != 0)
            && (variants.Block is not { } block || data.Blocks[VariantData.At(blockSizes, sequence, head, i / block.Q, j / block.Kv)] != 0);
    }

    private int Position(int sequence, int i) => problem.Mask == MaskKind.BottomRight ? i + Places[sequence].LenKv - Places[sequence].LenQ : i;

    private Place PlaceOf(int b)
    {
        (int firstQ, int lenQ) = UsedPart(b, data.OffsetsQ, data.UsedQ, problem.LenQ);
        (int firstKv, int lenKv) = UsedPart(b, data.OffsetsKv, data.UsedKv, problem.LenKv);
        return new Place(variants.IsPacked ? 0 : b, firstQ, lenQ, firstKv, lenKv);
    }

    private (int First, int Length) UsedPart(int b, int[] offsets, int[] used, int whole)
    {
        int begin = offsets.Length == 0 ? 0 : offsets[b];
        int end = offsets.Length == 0 ? whole : offsets[b + 1];
        int length = used.Length == 0 ? end - begin : used[b];
        return variants.IsLeftPadded ? (end - length, length) : (begin, length);
    }
}
