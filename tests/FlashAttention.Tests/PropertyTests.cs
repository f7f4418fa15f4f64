namespace FlashAttention.Tests;

/// <summary>Identities that attention obeys whatever the implementation.</summary>
[TestFixtureSource(typeof(TestDevice), nameof(TestDevice.Wanted))]
public sealed class PropertyTests(TestDevice device) : DeviceFixture(device)
{
    private static readonly ProblemCase Base = new()
    {
        Format = ElementFormat.Float16,
        Batch = 2,
        HeadsQ = 4,
        HeadsKv = 2,
        LenQ = 70,
        LenKv = 150,
        HeadDim = 64,
        HeadDimV = 64,
        Seed = 41,
    };

    /// <summary>Attention over a split set of keys, merged by lse, is attention over the whole set (ring attention, split KV).</summary>
    [Test]
    public void PartsOfTheKeysMergeIntoTheWhole([Values(1, 64, 149)] int split)
    {
        AttentionInputs inputs = AttentionInputs.Create(Base);
        (AttentionResult whole, AttentionResult allowed) = RunWithAllowed(Base, inputs);
        ProblemCase firstPart = Base with { LenKv = split };
        ProblemCase secondPart = Base with { LenKv = Base.LenKv - split };
        (AttentionResult first, AttentionResult allowedFirst) = RunWithAllowed(firstPart, Part(inputs, 0, split));
        (AttentionResult second, AttentionResult allowedSecond) = RunWithAllowed(secondPart, Part(inputs, split, Base.LenKv));
        for (int row = 0; row < Base.LseCount; row++)
        {
            double max = Math.Max(first.Lse[row], second.Lse[row]);
            double lse = max + Math.Log(Math.Exp(first.Lse[row] - max) + Math.Exp(second.Lse[row] - max));
            double lseError = allowed.Lse[row] + allowedFirst.Lse[row] + allowedSecond.Lse[row];
            Assert.That(lse, Is.EqualTo(whole.Lse[row]).Within(lseError), $"lse[{row}]");
            double a = Math.Exp(first.Lse[row] - lse);
            double b = Math.Exp(second.Lse[row] - lse);
            for (int c = row * Base.HeadDimV; c < (row + 1) * Base.HeadDimV; c++)
            {
                double merged = a * first.O[c] + b * second.O[c];
                double tolerance = allowed.O[c] + a * allowedFirst.O[c] + b * allowedSecond.O[c]
                    + lseError * (a * Math.Abs(first.O[c]) + b * Math.Abs(second.O[c]));
                Assert.That(merged, Is.EqualTo(whole.O[c]).Within(tolerance), $"o[{c}]");
            }
        }
    }

    /// <summary>Twice the scale on half the queries changes no bit: powers of two are exact.</summary>
    [Test]
    public void ScaleIsAFactorOnTheQueries([Values] MaskKind mask)
    {
        // bfloat16: halving must not leave the normal range.
        ProblemCase problem = Base with { Format = ElementFormat.BFloat16, Mask = mask, Scale = 0.25f };
        AttentionInputs inputs = AttentionInputs.Create(problem);
        AttentionResult expected = Run(problem, inputs);
        var half = new AttentionInputs { Q = Array.ConvertAll(inputs.Q, x => x / 2), K = inputs.K, V = inputs.V, GradO = inputs.GradO, GradLse = [] };
        AttentionResult actual = Run(problem with { Scale = 0.5f }, half);
        Assert.Multiple(() =>
        {
            Assert.That(actual.O, Is.EqualTo(expected.O));
            Assert.That(actual.Lse, Is.EqualTo(expected.Lse));
            Assert.That(actual.GradV, Is.EqualTo(expected.GradV));
        });
    }

    [Test]
    public void TheDefaultScaleIsOneOverTheRootOfHeadDim()
    {
        AttentionInputs inputs = AttentionInputs.Create(Base);
        Assert.That(Run(Base with { Scale = 0.125f }, inputs).O, Is.EqualTo(Run(Base, inputs).O), "head_dim 64: 1/8");
    }

    /// <summary>Without a mask the order of the keys does not matter, and the gradients follow them.</summary>
    [Test]
    public void PermutedKeysGiveTheSameOutput()
    {
        AttentionInputs inputs = AttentionInputs.Create(Base);
        (AttentionResult expected, AttentionResult allowed) = RunWithAllowed(Base, inputs);
        var permuted = new AttentionInputs
        {
            Q = inputs.Q,
            K = Permute(inputs.K, Base.HeadDim),
            V = Permute(inputs.V, Base.HeadDimV),
            GradO = inputs.GradO,
            GradLse = [],
        };
        AttentionResult actual = Run(Base, permuted);
        AssertNear("o", actual.O, expected.O, allowed.O);
        AssertNear("grad_q", actual.GradQ, expected.GradQ, allowed.GradQ);
        AssertNear("grad_k", actual.GradK, Permute(expected.GradK, Base.HeadDim), Permute(allowed.GradK, Base.HeadDim));
        AssertNear("grad_v", actual.GradV, Permute(expected.GradV, Base.HeadDimV), Permute(allowed.GradV, Base.HeadDimV));
    }

    /// <summary>A batch entry computed alone is what it is among others.</summary>
    [Test]
    public void BatchEntriesAreIndependent([Values] MaskKind mask)
    {
        ProblemCase three = Base with { Batch = 3, Mask = mask };
        AttentionInputs inputs = AttentionInputs.Create(three);
        (AttentionResult together, AttentionResult allowed) = RunWithAllowed(three, inputs);
        ProblemCase one = three with { Batch = 1 };
        var last = new AttentionInputs
        {
            Q = Last(inputs.Q, 3),
            K = Last(inputs.K, 3),
            V = Last(inputs.V, 3),
            GradO = Last(inputs.GradO, 3),
            GradLse = [],
        };
        AttentionResult alone = Run(one, last);
        AssertNear("o", alone.O, Last(together.O, 3), Last(allowed.O, 3));
        AssertNear("grad_q", alone.GradQ, Last(together.GradQ, 3), Last(allowed.GradQ, 3));
        AssertNear("grad_k", alone.GradK, Last(together.GradK, 3), Last(allowed.GradK, 3));
        AssertNear("grad_v", alone.GradV, Last(together.GradV, 3), Last(allowed.GradV, 3));
    }

    /// <summary>The rows of P sum to one: constant values come out as they went in, and their key gradients vanish.</summary>
    [Test]
    public void ConstantValuesPassThrough([Values] MaskKind mask)
    {
        ProblemCase problem = Base with { LenKv = 70, Mask = mask };
        AttentionInputs random = AttentionInputs.Create(problem);
        var inputs = new AttentionInputs { Q = random.Q, K = random.K, V = Array.ConvertAll(random.V, _ => 3.0), GradO = random.GradO, GradLse = [] };
        (AttentionResult actual, AttentionResult allowed) = RunWithAllowed(problem, inputs);
        AssertNear("o", actual.O, Array.ConvertAll(actual.O, _ => 3.0), allowed.O);
        AssertNear("grad_k", actual.GradK, new double[actual.GradK.Length], allowed.GradK);
    }

    private AttentionResult Run(ProblemCase problem, AttentionInputs inputs)
    {
        using var call = new AttentionCall(Device, problem, inputs);
        call.Forward();
        AttentionResult result = call.ReadForward(new AttentionResult(problem));
        call.Backward();
        return call.ReadBackward(result);
    }

    private (AttentionResult Actual, AttentionResult Allowed) RunWithAllowed(ProblemCase problem, AttentionInputs inputs) =>
        (Run(problem, inputs), AttentionOracle.Compute(problem, inputs).Allowed);

    /// <summary>Keys and values [from, to) of every head.</summary>
    private static AttentionInputs Part(AttentionInputs inputs, int from, int to) => new()
    {
        Q = inputs.Q,
        K = Slice(inputs.K, Base.HeadDim, from, to),
        V = Slice(inputs.V, Base.HeadDimV, from, to),
        GradO = inputs.GradO,
        GradLse = [],
    };

    private static double[] Slice(double[] rows, int width, int from, int to) =>
        Enumerable.Range(0, Base.Batch * Base.HeadsKv)
            .SelectMany(head => rows[((head * Base.LenKv + from) * width)..((head * Base.LenKv + to) * width)])
            .ToArray();

    /// <summary>Moves key j of every head to 7 j + 3 modulo the number of keys.</summary>
    private static double[] Permute(double[] rows, int width)
    {
        var result = new double[rows.Length];
        for (int row = 0; row < rows.Length / width; row++)
        {
            int target = row / Base.LenKv * Base.LenKv + (row % Base.LenKv * 7 + 3) % Base.LenKv;
            rows.AsSpan(row * width, width).CopyTo(result.AsSpan(target * width));
        }
        return result;
    }

    private static double[] Last(double[] values, int parts) => values[(values.Length / parts * (parts - 1))..];

    // Both sides are results of the kernel, so both may be off by what is allowed.
    private static void AssertNear(string name, double[] actual, double[] expected, double[] allowed)
    {
        for (int i = 0; i < actual.Length; i++)
        {
            Assert.That(actual[i], Is.EqualTo(expected[i]).Within(2 * allowed[i]), $"{name}[{i}]");
        }
    }
}
