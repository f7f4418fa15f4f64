namespace FlashAttention.Tests;

/// <summary>The one table of problems: every pair of levels of any two factors occurs (pairwise cover), chosen by an algorithm and not by hand.</summary>
public static class CaseTable
{
    // One and two off every edge of the tiles in use: 16 (tensor-core fragment), 32 and 64, 128, 256 rows.
    private static readonly int[] Lengths = [1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 193, 257];

    private static readonly (int D, int Dv)[] AllHeadDims =
    [
        (1, 1), (3, 5), (8, 8), (17, 33), (40, 40), (64, 64), (72, 80), (80, 24), (96, 96), (128, 128), (128, 64), (160, 160), (192, 128), (192, 192),
        (256, 256), (320, 40), (512, 512),
    ];

    private static readonly (int D, int Dv)[] TensorCoreHeadDims =
    [
        (8, 8), (16, 32), (40, 40), (64, 64), (64, 128), (96, 96), (104, 88), (128, 128), (160, 160), (192, 128), (192, 192), (256, 256), (256, 64),
    ];

    private static readonly (int Q, int Kv)[] Heads = [(1, 1), (3, 3), (4, 2), (5, 1), (6, 2)];

    private static readonly MaskKind[] Masks = [MaskKind.None, MaskKind.TopLeft, MaskKind.BottomRight];

    private static readonly float[] Scales = [0f, 0.3f];

    /// <summary>Every dtype and head dim that the CPU computes; on CUDA the rest must be refused.</summary>
    public static IReadOnlyList<ProblemCase> General { get; } =
        Build([ElementFormat.Float32, ElementFormat.Float16, ElementFormat.BFloat16], AllHeadDims, Enum.GetValues<Layout>(), seed: 1);

    /// <summary>What tensor-core kernels compute, covered by itself: 16-bit elements, head dims that are multiples of 8.</summary>
    public static IReadOnlyList<ProblemCase> TensorCore { get; } =
        Build([ElementFormat.Float16, ElementFormat.BFloat16], TensorCoreHeadDims, Enum.GetValues<Layout>(), seed: 2);

    /// <summary>Both tables; a few small cases of each in a smoke run.</summary>
    public static IEnumerable<ProblemCase> All()
    {
        IEnumerable<ProblemCase> all = General.Concat(TensorCore);
        return TestSettings.Smoke ? Smoke(General, 12).Concat(Smoke(TensorCore, 16)) : all;
    }

    // Small problems spread over the table, so that every factor still varies.
    private static IEnumerable<ProblemCase> Smoke(IReadOnlyList<ProblemCase> table, int count)
    {
        ProblemCase[] small = table.Where(c => c.LenQ is > 1 and <= 129 && c.LenKv is > 1 and <= 129 && c.Inputs != InputKind.LargeLogits).ToArray();
        return Enumerable.Range(0, count).Select(i => small[i * small.Length / count]);
    }

    private static List<ProblemCase> Build(ElementFormat[] formats, (int D, int Dv)[] dims, Layout[] layouts, int seed)
    {
        InputKind[] inputs = Enum.GetValues<InputKind>();
        int[] levels =
        [
            Lengths.Length, Lengths.Length, dims.Length, formats.Length, Masks.Length, layouts.Length, inputs.Length, Heads.Length, Scales.Length, 2, 2, 2,
        ];
        return PairwiseCover.Build(levels, seed).Select((row, index) => new ProblemCase
        {
            LenQ = Lengths[row[0]],
            LenKv = Lengths[row[1]],
            HeadDim = dims[row[2]].D,
            HeadDimV = dims[row[2]].Dv,
            Format = formats[row[3]],
            Mask = Masks[row[4]],
            Layout = layouts[row[5]],
            Inputs = inputs[row[6]],
            HeadsQ = Heads[row[7]].Q,
            HeadsKv = Heads[row[7]].Kv,
            Scale = Scales[row[8]],
            Deterministic = row[9] == 1,
            GradLse = row[10] == 1,
            Batch = row[11] + 1,
            Seed = 1000 * seed + index,
        }).ToList();
    }
}
