namespace FlashAttention.Tests;

/// <summary>The case table covers what it promises.</summary>
[TestFixture]
public sealed class CaseTableTests
{
    [Test]
    public void EveryPairOfLevelsOccurs()
    {
        int[] levels = [7, 5, 4, 3, 2, 2];
        List<int[]> rows = PairwiseCover.Build(levels, seed: 4);
        for (int f = 0; f < levels.Length; f++)
        {
            for (int g = f + 1; g < levels.Length; g++)
            {
                int pairs = rows.Select(row => (row[f], row[g])).Distinct().Count();
                Assert.That(pairs, Is.EqualTo(levels[f] * levels[g]), $"factors {f} and {g}");
            }
        }
        Assert.That(rows, Has.Count.LessThan(7 * 5 * 2), "a covering table is much smaller than the product of all levels");
    }

    [Test]
    public void TheTableHasAllKinds()
    {
        foreach (IReadOnlyList<ProblemCase> table in new[] { CaseTable.General, CaseTable.TensorCore })
        {
            Assert.Multiple(() =>
            {
                Assert.That(table.Select(c => (c.Mask, c.Inputs)).Distinct().Count(), Is.EqualTo(3 * Enum.GetValues<InputKind>().Length));
                Assert.That(table.Any(c => c.LenQ > c.LenKv && c.Mask == MaskKind.BottomRight), "rows that see no key");
                Assert.That(table.Any(c => c.LenQ < c.LenKv && c.Mask == MaskKind.TopLeft && c.Inputs == InputKind.HiddenNan), "keys that no query sees");
                Assert.That(table.Any(c => c.Group > 1 && c.GradLse && c.Deterministic));
                Assert.That(table.Select(c => c.Seed).Distinct().Count(), Is.EqualTo(table.Count));
            });
        }
        Assert.That(CaseTable.TensorCore.All(c => c.FitsTensorCores), Is.True);
        Assert.That(CaseTable.General.Any(c => c.FitsTensorCores && c.HeadDim > 256), "CUDA kernels of more than 256 columns");
        TestContext.Out.WriteLine($"{CaseTable.General.Count} general cases, {CaseTable.TensorCore.Count} tensor-core cases");
    }
}
