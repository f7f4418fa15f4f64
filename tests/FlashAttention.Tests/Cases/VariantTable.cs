namespace FlashAttention.Tests;

/// <summary>The one table of mask and score variants. Each line of <see cref="Levels"/> is a variant with a setting; the cases follow from it by algorithm:
/// every line alone in every
/// dtype, crossed pairwise with shapes, layouts, alignments, heads and inputs; and all variants together, so that every pair of lines of different variants
/// meets in some case.</summary>
public static class VariantTable
{
    /// <summary>A factor: a variant and its settings, the first being off.</summary>
    private static readonly (string Name, Func<Variants, Variants>[] Settings)[] Levels =
    [
        ("window", [v => v, v => v with { Window = (0, 0) }, v => v with { Window = (5, -1) },
            v => v with { Window = (-1, 7) }, v => v with { Window = (20, 3) }, v => v with { Window = (70, 0) }]),
        ("chunk", [v => v, v => v with { Chunk = 1 }, v => v with { Chunk = 16 }, v => v with { Chunk = 50 }]),
        ("softcap", [v => v, v => v with { Softcap = 30 }, v => v with { Softcap = 1.5f }]),
        ("alibi", [v => v, v => v with { Alibi = AlibiKind.PerHead }, v => v with { Alibi = AlibiKind.PerBatch }]),
        ("bias", [v => v, .. Shapes((v, shape) => v with { Bias = shape }), .. Shapes((v, shape) => v with { Bias = shape, BiasFloat32 = true })]),
        ("visible", [v => v, .. Shapes((v, shape) => v with { Visible = shape })]),
        ("block", [v => v, v => v with { Block = (16, 16) }, v => v with { Block = (32, 64), BlockPerHead = true }, v => v with { Block = (128, 48) }]),
        ("sinks", [v => v, v => v with { Sinks = true }]),
        ("dropout", [v => v, v => v with { Dropout = 0.1f }, v => v with { Dropout = 0.75f }]),
        ("sequences", [v => v, .. Enum.GetValues<SequenceKind>().Where(kind => kind != SequenceKind.None)
            .Select<SequenceKind, Func<Variants, Variants>>(kind => v => v with { Sequences = kind })]),
    ];

    /// <summary>The factors, with each of their settings but off, alone.</summary>
    public static IEnumerable<(string Name, IEnumerable<Variants> Settings)> Factors =>
        Levels.Select(factor => (factor.Name, factor.Settings.Skip(1).Select(set => set(Variants.None))));

    /// <summary>The first and the last setting of a factor.</summary>
    public static IEnumerable<Func<Variants, Variants>> Ends(string factor)
    {
        Func<Variants, Variants>[] settings = Levels.Single(f => f.Name == factor).Settings;
        return settings.Length > 2 ? [settings[1], settings[^1]] : [settings[1]];
    }

    /// <summary>Names of the factors that are set.</summary>
    public static IEnumerable<string> FactorsOf(Variants variants) => Presence.Where(factor => factor.IsSet(variants)).Select(factor => factor.Name);

    private static readonly (string Name, Func<Variants, bool> IsSet)[] Presence =
    [
        ("window", v => v.Window is not null), ("chunk", v => v.Chunk > 0), ("softcap", v => v.Softcap > 0), ("alibi", v => v.Alibi != AlibiKind.None),
        ("bias", v => v.Bias != PairShape.None), ("visible", v => v.Visible != PairShape.None), ("block", v => v.Block is not null), ("sinks", v => v.Sinks),
        ("dropout", v => v.Dropout > 0), ("sequences", v => v.Sequences != SequenceKind.None),
    ];

    private static readonly int[] Lengths = [1, 15, 33, 64, 65, 130];

    private static readonly (int D, int Dv)[] HeadDims = [(8, 8), (5, 3), (64, 64), (40, 72), (128, 128), (192, 128), (512, 512)];

    private static readonly (int Q, int Kv)[] Heads = [(1, 1), (4, 2), (3, 1)];

    private static readonly ElementFormat[] Formats = [ElementFormat.Float32, ElementFormat.Float16, ElementFormat.BFloat16];

    private static readonly InputKind[] Inputs = [InputKind.Normal, InputKind.HiddenNan, InputKind.NanQuery, InputKind.LargeLogits];

    // Factors that are no variant: lengths twice, head dims, heads, mask, layout, inputs, batch, determinism, gradient of lse, scale.
    private static readonly int[] ShapeLevels =
        [Lengths.Length, Lengths.Length, HeadDims.Length, Heads.Length, 3, Enum.GetValues<Layout>().Length, Inputs.Length, 2, 2, 2, 2];

    /// <summary>One variant at a time.</summary>
    public static IReadOnlyList<ProblemCase> Alone { get; } = BuildAlone();

    /// <summary>All variants at once.</summary>
    public static IReadOnlyList<ProblemCase> Together { get; } = BuildTogether();

    public static IEnumerable<ProblemCase> All()
    {
        IEnumerable<ProblemCase> all = Alone.Concat(Together);
        return TestSettings.Smoke ? all.Where((c, i) => i % 8 == 0 && c.HeadDim <= 128 && c.Inputs != InputKind.LargeLogits) : all;
    }

    private static IEnumerable<Func<Variants, Variants>> Shapes(Func<Variants, PairShape, Variants> set) =>
        Enum.GetValues<PairShape>().Where(shape => shape != PairShape.None).Select<PairShape, Func<Variants, Variants>>(shape => v => set(v, shape));

    private static List<ProblemCase> BuildAlone()
    {
        Func<Variants, Variants>[] settings = Levels.SelectMany(factor => factor.Settings.Skip(1)).ToArray();
        List<int[]> rows = PairwiseCover.Build([settings.Length, Formats.Length, .. ShapeLevels], seed: 11);
        return rows.Select((row, index) => Case(row, 2, Formats[row[1]], settings[row[0]](Variants.None), 30_000 + index)).ToList();
    }

    private static List<ProblemCase> BuildTogether()
    {
        List<int[]> rows = PairwiseCover.Build([Formats.Length, .. Levels.Select(factor => factor.Settings.Length), .. ShapeLevels], seed: 12);
        return rows.Select((row, index) =>
        {
            Variants variants = Levels.Select((factor, f) => factor.Settings[row[1 + f]]).Aggregate(Variants.None, (all, set) => set(all));
            return Case(row, 1 + Levels.Length, Formats[row[0]], variants, 40_000 + index);
        }).ToList();
    }

    private static ProblemCase Case(int[] row, int at, ElementFormat format, Variants variants, int seed)
    {
        var layout = (Layout)row[at + 5];
        InputKind inputs = Inputs[row[at + 6]];
        return new ProblemCase
        {
            Variants = variants,
            Format = format,
            LenQ = Lengths[row[at]],
            LenKv = Lengths[row[at + 1]],
            HeadDim = HeadDims[row[at + 2]].D,
            HeadDimV = HeadDims[row[at + 2]].Dv,
            HeadsQ = Heads[row[at + 3]].Q,
            HeadsKv = Heads[row[at + 3]].Kv,
            Mask = (MaskKind)row[at + 4],
            Layout = layout,
            // Broadcast keys and values are seen by several heads: what one does not see another does.
            Inputs = layout == Layout.Broadcast && inputs == InputKind.HiddenNan ? InputKind.Normal : inputs,
            Batch = variants.IsPacked ? 1 : row[at + 7] + 1,
            Deterministic = row[at + 8] == 1,
            GradLse = row[at + 9] == 1,
            Scale = row[at + 10] == 1 ? 0.3f : 0,
            Seed = seed,
        };
    }
}
