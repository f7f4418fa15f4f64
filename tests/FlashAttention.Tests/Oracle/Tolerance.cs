namespace FlashAttention.Tests;

/// <summary>The two bounds that every result must keep, and equal positions of NaN and infinity.
///
/// <para>(a) Element by element, the error is at most what rounding in the output format and fp32 arithmetic explains: <see cref="ErrorModel"/>.</para>
/// <para>(b) Over the tensor, the largest error is at most twice that of a naive implementation in the same dtype (<see cref="NaiveAttention"/>), plus one
/// rounding. Factor 2: both round the same quantities, but not in the same order, so neither bounds the other; two is the field's rule. One rounding: where the
/// naive form happens to be exact (one key, zero gradients), results still have to be accumulated in fp32 and stored: half a unit in the last place of the
/// largest exact element, and one fp32 rounding of each intermediate at the size of its terms (<see cref="OracleResult.OneRounding"/>).</para></summary>
internal static class Tolerance
{
    public static void AssertWithin(
        string name, Func<AttentionResult, double[]> tensor, AttentionResult results, OracleResult oracle, AttentionResult naiveResults, ElementFormat format)
    {
        double[] actual = tensor(results);
        double[] exact = tensor(oracle.Exact);
        double[] allowed = tensor(oracle.Allowed);
        double[] rounding = tensor(oracle.OneRounding);
        double[] naive = tensor(naiveResults);
        Assert.That(actual, Has.Length.EqualTo(exact.Length), name);
        double worst = 0;
        double worstNaive = 0;
        double largest = 0;
        double largestRounding = 0;
        int worstAt = 0;
        for (int i = 0; i < actual.Length; i++)
        {
            if (!double.IsFinite(exact[i]))
            {
                AssertSameClass(name, i, actual[i], exact[i], naive[i]);
                continue;
            }
            double error = Math.Abs(actual[i] - exact[i]);
            // Written so that a NaN on either side fails.
            if (!(error <= allowed[i]))
            {
                Assert.Fail(FormattableString.Invariant(
                    $"{name}[{i}] of {actual.Length}: {actual[i]:R}, exact {exact[i]:R}, error {error:E3}, allowed {allowed[i]:E3} (bound a)"));
            }
            if (error > worst)
            {
                worst = error;
                worstAt = i;
            }
            largest = Math.Max(largest, Math.Abs(exact[i]));
            largestRounding = Math.Max(largestRounding, rounding[i]);
            double naiveError = Math.Abs(naive[i] - exact[i]);
            if (double.IsFinite(naiveError))
            {
                worstNaive = Math.Max(worstNaive, naiveError);
            }
        }
        double limit = 2 * worstNaive + 0.5 * format.Ulp(largest) + largestRounding;
        if (!(worst <= limit))
        {
            Assert.Fail(FormattableString.Invariant(
                $"{name}[{worstAt}] of {actual.Length}: largest error {worst:E3}, naive {worstNaive:E3}, limit {limit:E3} (bound b)"));
        }
    }

    /// <remarks>
    /// Where a probability is too small for the type, an infinite value gives 0 · ∞ = NaN in any implementation that rounds P to it, the naive one included.
    /// </remarks>
    private static void AssertSameClass(string name, int i, double actual, double exact, double naive)
    {
        bool same = double.IsNaN(exact) ? double.IsNaN(actual) : actual == exact || (double.IsNaN(naive) && double.IsNaN(actual));
        if (!same)
        {
            Assert.Fail(FormattableString.Invariant($"{name}[{i}]: expected {exact}, got {actual:R}"));
        }
    }
}
