namespace FlashAttention.Tests;

/// <summary>A deterministic covering table: for every two factors, every pair of their levels occurs in some row.</summary>
internal static class PairwiseCover
{
    /// <summary>Rows of level indices, one per factor.</summary>
    /// <param name="levels">Number of levels of each factor.</param>
    /// <param name="seed">Breaks ties; another seed gives another table with the same property.</param>
    public static List<int[]> Build(int[] levels, int seed)
    {
        var random = new GaussianSource(seed);
        var uncovered = new HashSet<(int F, int A, int G, int B)>();
        for (int f = 0; f < levels.Length; f++)
        {
            for (int g = f + 1; g < levels.Length; g++)
            {
                for (int a = 0; a < levels[f]; a++)
                {
                    for (int b = 0; b < levels[g]; b++)
                    {
                        uncovered.Add((f, a, g, b));
                    }
                }
            }
        }
        var rows = new List<int[]>();
        while (uncovered.Count > 0)
        {
            int[] row = Complete(uncovered.Min(), levels, uncovered, random);
            uncovered.RemoveWhere(pair => row[pair.F] == pair.A && row[pair.G] == pair.B);
            rows.Add(row);
        }
        return rows;
    }

    // Starts from one uncovered pair and gives every other factor, in turn, the level that covers most uncovered pairs with the levels chosen so far.
    private static int[] Complete((int F, int A, int G, int B) first, int[] levels, HashSet<(int F, int A, int G, int B)> uncovered, GaussianSource random)
    {
        var row = new int[levels.Length];
        Array.Fill(row, -1);
        row[first.F] = first.A;
        row[first.G] = first.B;
        for (int f = 0; f < levels.Length; f++)
        {
            if (row[f] >= 0)
            {
                continue;
            }
            double best = -1;
            int bestLevel = 0;
            for (int level = 0; level < levels[f]; level++)
            {
                double gain = random.NextUniform();
                for (int g = 0; g < levels.Length; g++)
                {
                    if (g != f && row[g] >= 0)
                    {
                        gain += uncovered.Contains(f < g ? (f, level, g, row[g]) : (g, row[g], f, level)) ? 1 : 0;
                    }
                }
                if (gain > best)
                {
                    (best, bestLevel) = (gain, level);
                }
            }
            row[f] = bestLevel;
        }
        return row;
    }
}
