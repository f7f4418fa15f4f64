namespace FlashAttention.Tests;

/// <summary>The oracle's variants: cases by hand, published numbers of the generator, and every gradient against numerical differentiation.</summary>
[TestFixture]
public sealed class VariantOracleTests
{
    private static readonly ProblemCase Small = new()
    {
        Format = ElementFormat.Float32,
        Batch = 2,
        HeadsQ = 4,
        HeadsKv = 2,
        LenQ = 5,
        LenKv = 6,
        HeadDim = 3,
        HeadDimV = 2,
        GradLse = true,
        Seed = 77,
    };

    /// <summary>Known answers of the generator's authors (Random123, kat_vectors).</summary>
    [TestCase(new uint[] { 0, 0, 0, 0 }, new uint[] { 0, 0 }, new[] { 0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u })]
    [TestCase(new[] { ~0u, ~0u, ~0u, ~0u }, new[] { ~0u, ~0u }, new[] { 0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu })]
    [TestCase(new[] { 0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u }, new[] { 0xa4093822u, 0x299f31d0u },
        new[] { 0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u })]
    public void PhiloxGivesThePublishedNumbers(uint[] counter, uint[] key, uint[] expected)
    {
        Assert.That(PhiloxOracle.Block(counter, key), Is.EqualTo(expected));
        (uint, uint, uint, uint) shipped = Philox.Words((counter[0], counter[1], counter[2], counter[3]), key[0], key[1]);
        Assert.That(shipped, Is.EqualTo((expected[0], expected[1], expected[2], expected[3])), "the shipped reference");
    }

    [Test]
    public void DropoutDropsItsShare([Values(0.1f, 0.5f, 0.9f)] float rate)
    {
        int kept = Enumerable.Range(0, 100_000).Count(n => PhiloxOracle.Keeps(rate, 5, 6, n / 10_000, n / 100 % 100, n % 100));
        // Five standard deviations of a binomial distribution.
        Assert.That(kept / 100_000.0, Is.EqualTo(1 - rate).Within(5 * Math.Sqrt(rate * (1 - rate) / 100_000)));
    }

    /// <summary>Equal scores: a sink of log n is a key of weight n with value 0.</summary>
    [Test]
    public void SinksByHand()
    {
        var problem = new ProblemCase
        {
            Format = ElementFormat.Float32,
            LenQ = 1,
            LenKv = 2,
            HeadDim = 1,
            HeadDimV = 1,
            Variants = new() { Sinks = true },
        };
        var inputs = new AttentionInputs
        {
            Q = [0],
            K = [1, 2],
            V = [10, 20],
            GradO = [1],
            GradLse = [],
            Extra = new VariantData { Sinks = [Math.Log(2)], Count = 1, Rows = 1, Columns = 2 },
        };
        AttentionResult exact = AttentionOracle.Compute(problem, inputs).Exact;
        Assert.Multiple(() =>
        {
            Assert.That(exact.O[0], Is.EqualTo((10 + 20) / 4.0).Within(1e-14));
            Assert.That(exact.Lse[0], Is.EqualTo(Math.Log(4)).Within(1e-14));
            Assert.That(exact.GradSinks[0], Is.EqualTo(-0.5 * 7.5).Within(1e-14), "p of the sink times (0 - o)");
        });
    }

    /// <summary>Which keys each query sees, drawn by hand.</summary>
    [TestCase(MaskKind.TopLeft, 1, 0, 0, "1000|1100|0110")]
    [TestCase(MaskKind.BottomRight, 1, 0, 0, "1100|0110|0011")]
    [TestCase(MaskKind.None, 0, 1, 0, "1100|0110|0011")]
    [TestCase(MaskKind.None, -1, -1, 2, "1100|1100|0011")]
    [TestCase(MaskKind.BottomRight, -1, 0, 2, "1100|0010|0011")]
    [TestCase(MaskKind.TopLeft, -1, -1, 3, "1110|1110|1110")]
    public void MasksByHand(MaskKind mask, int left, int right, int chunk, string expected)
    {
        ProblemCase problem = Small with { LenQ = 3, LenKv = 4, Mask = mask, Variants = new() { Window = (left, right), Chunk = chunk } };
        var rules = new PairRules(problem, VariantData.Create(problem));
        IEnumerable<string> rows = Enumerable.Range(0, 3).Select(i => string.Concat(Enumerable.Range(0, 4).Select(j => rules.Sees(0, 0, i, j) ? '1' : '0')));
        string seen = string.Join('|', rows);
        Assert.That(seen, Is.EqualTo(expected));
    }

    /// <summary>Every setting of the table alone, and some together.</summary>
    public static IEnumerable<Variants> Settings() => VariantTable.Alone.Select(c => c.Variants)
        .Concat(VariantTable.Together.Where((_, n) => n % 5 == 0).Select(c => c.Variants))
        .Select(v => v with { Window = v.Window is { } w ? (Math.Min(w.Left, 2), Math.Min(w.Right, 2)) : null, Chunk = Math.Min(v.Chunk, 4) })
        .Distinct();

    /// <summary>L = Σ dO·O + Σ dLse·lse; its central differences must be the gradients.</summary>
    [TestCaseSource(nameof(Settings))]
    public void BackwardIsTheDerivativeOfForward(Variants variants)
    {
        foreach (MaskKind mask in Enum.GetValues<MaskKind>())
        {
            (int batch, int lenQ, int lenKv) = variants.IsPacked ? (1, 9, 10) : (2, 5, 6);
            ProblemCase problem = Small with { Variants = variants, Mask = mask, Batch = batch, LenQ = lenQ, LenKv = lenKv };
            AttentionInputs inputs = AttentionInputs.Create(problem);
            AttentionResult exact = AttentionOracle.Compute(problem, inputs).Exact;
            AssertDerivative("grad_q", problem, inputs, inputs.Q, exact.GradQ);
            AssertDerivative("grad_k", problem, inputs, inputs.K, exact.GradK);
            AssertDerivative("grad_v", problem, inputs, inputs.V, exact.GradV);
            AssertDerivative("grad_bias", problem, inputs, inputs.Extra.Bias, exact.GradBias);
            AssertDerivative("grad_sinks", problem, inputs, inputs.Extra.Sinks, exact.GradSinks);
        }
    }

    private static void AssertDerivative(string name, ProblemCase problem, AttentionInputs inputs, double[] variable, double[] gradient)
    {
        const double step = 1e-5;
        Assert.That(gradient, Has.Length.EqualTo(variable.Length), name);
        for (int i = 0; i < variable.Length; i++)
        {
            double value = variable[i];
            if (double.IsNegativeInfinity(value))
            {
                Assert.That(gradient[i], Is.Zero, $"{name}[{i}] of a pair that a bias of -infinity hides");
                continue;
            }
            variable[i] = value + step;
            double above = Loss(problem, inputs);
            variable[i] = value - step;
            double below = Loss(problem, inputs);
            variable[i] = value;
            Assert.That(gradient[i], Is.EqualTo((above - below) / (2 * step)).Within(1e-6), $"{problem}: {name}[{i}]");
        }
    }

    private static double Loss(ProblemCase problem, AttentionInputs inputs)
    {
        AttentionResult exact = AttentionOracle.Compute(problem, inputs).Exact;
        double loss = exact.O.Zip(inputs.GradO, (o, g) => o * g).Sum();
        for (int i = 0; i < inputs.GradLse.Length; i++)
        {
            loss += double.IsFinite(exact.Lse[i]) ? exact.Lse[i] * inputs.GradLse[i] : 0;
        }
        return loss;
    }
}
