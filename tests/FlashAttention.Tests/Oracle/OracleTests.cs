namespace FlashAttention.Tests;

/// <summary>The oracle itself: cases computed by hand, and its backward pass against numerical differentiation of its forward pass.</summary>
[TestFixture]
public sealed class OracleTests
{
    /// <summary>Two keys, one query, head_dim 1, scale 1: p = (1, e) / (1 + e).</summary>
    [Test]
    public void TwoKeysByHand()
    {
        var problem = new ProblemCase { Format = ElementFormat.Float32, LenQ = 1, LenKv = 2, HeadDim = 1, HeadDimV = 1, Scale = 1 };
        AttentionInputs inputs = Inputs(q: [1], k: [0, 1], v: [10, 20], gradO: [1]);
        AttentionResult exact = AttentionOracle.Compute(problem, inputs).Exact;

        double p1 = Math.E / (1 + Math.E);
        double p0 = 1 - p1;
        // dP = v, D = 10 p0 + 20 p1, dS_j = p_j (v_j - D) = ± 10 p0 p1.
        double gradS = 10 * p0 * p1;
        Assert.Multiple(() =>
        {
            Assert.That(exact.O[0], Is.EqualTo(10 * p0 + 20 * p1).Within(1e-14));
            Assert.That(exact.Lse[0], Is.EqualTo(Math.Log(1 + Math.E)).Within(1e-14));
            Assert.That(exact.GradV, Is.EqualTo(new[] { p0, p1 }).Within(1e-14));
            Assert.That(exact.GradQ[0], Is.EqualTo(gradS).Within(1e-13));
            Assert.That(exact.GradK, Is.EqualTo(new[] { -gradS, gradS }).Within(1e-13));
        });
    }

    /// <summary>Equal keys give the mean of the visible values: the masks show in the result alone.</summary>
    [TestCase(MaskKind.None, new[] { 3.0, 3.0 })]
    [TestCase(MaskKind.TopLeft, new[] { 1.0, 1.5 })]
    [TestCase(MaskKind.BottomRight, new[] { 2.5, 3.0 })]
    public void MasksByHand(MaskKind mask, double[] expected)
    {
        var problem = new ProblemCase { Format = ElementFormat.Float32, LenQ = 2, LenKv = 5, HeadDim = 1, HeadDimV = 1, Mask = mask };
        AttentionInputs inputs = Inputs(q: [7, -3], k: [0, 0, 0, 0, 0], v: [1, 2, 3, 4, 5], gradO: [0, 0]);
        // Bottom-right: query 0 sees keys 0 … 3.
        Assert.That(AttentionOracle.Compute(problem, inputs).Exact.O, Is.EqualTo(expected).Within(1e-14));
    }

    [Test]
    public void AQueryWithoutKeysIsEmpty()
    {
        var problem = new ProblemCase { Format = ElementFormat.Float32, LenQ = 3, LenKv = 2, HeadDim = 1, HeadDimV = 1, Mask = MaskKind.BottomRight };
        AttentionInputs inputs = Inputs(q: [1, 2, 3], k: [4, 5], v: [6, 7], gradO: [1, 1, 1]);
        AttentionResult exact = AttentionOracle.Compute(problem, inputs).Exact;
        Assert.Multiple(() =>
        {
            Assert.That(exact.O[0], Is.Zero);
            Assert.That(exact.Lse[0], Is.EqualTo(double.NegativeInfinity));
            Assert.That(exact.GradQ[0], Is.Zero);
            Assert.That(exact.O[1], Is.EqualTo(6).Within(1e-14), "query 1 sees key 0 only");
        });
    }

    /// <summary>Grouped heads: query heads 0, 1 read key/value head 0, query heads 2, 3 read head 1.</summary>
    [Test]
    public void GroupedHeadsByHand()
    {
        var problem = new ProblemCase { Format = ElementFormat.Float32, HeadsQ = 4, HeadsKv = 2, LenQ = 1, LenKv = 1, HeadDim = 1, HeadDimV = 1 };
        AttentionInputs inputs = Inputs(q: [1, 2, 3, 4], k: [1, 1], v: [50, 60], gradO: [1, 10, 100, 1000]);
        AttentionResult exact = AttentionOracle.Compute(problem, inputs).Exact;
        Assert.Multiple(() =>
        {
            Assert.That(exact.O, Is.EqualTo(new double[] { 50, 50, 60, 60 }));
            Assert.That(exact.GradV, Is.EqualTo(new double[] { 11, 1100 }), "summed over the group");
        });
    }

    /// <summary>L = Σ dO·O + Σ dLse·lse; its central differences must be the gradients.</summary>
    [TestCase(MaskKind.None, 1, false)]
    [TestCase(MaskKind.None, 2, true)]
    [TestCase(MaskKind.TopLeft, 2, true)]
    [TestCase(MaskKind.BottomRight, 3, true)]
    public void BackwardIsTheDerivativeOfForward(MaskKind mask, int group, bool gradLse)
    {
        var problem = new ProblemCase
        {
            Format = ElementFormat.Float32,
            Batch = 2,
            HeadsQ = 2 * group,
            HeadsKv = 2,
            LenQ = 4,
            LenKv = 5,
            HeadDim = 3,
            HeadDimV = 2,
            Mask = mask,
            GradLse = gradLse,
            Seed = 5,
        };
        AttentionInputs inputs = AttentionInputs.Create(problem);
        AttentionResult exact = AttentionOracle.Compute(problem, inputs).Exact;
        AssertDerivative("grad_q", problem, inputs, inputs.Q, exact.GradQ);
        AssertDerivative("grad_k", problem, inputs, inputs.K, exact.GradK);
        AssertDerivative("grad_v", problem, inputs, inputs.V, exact.GradV);
    }

    /// <summary>The tolerances are finite and of the order of the formats: not so wide that anything passes.</summary>
    [TestCase("f32", 3e-4)]
    [TestCase("f16", 0.02)]
    [TestCase("bf16", 0.16)]
    public void AllowedErrorsAreTight(string name, double relative)
    {
        ElementFormat format = new[] { ElementFormat.Float32, ElementFormat.Float16, ElementFormat.BFloat16 }.Single(f => f.Name == name);
        var problem = new ProblemCase { Format = format, LenQ = 64, LenKv = 64, HeadDim = 64, HeadDimV = 64, Seed = 9 };
        (AttentionResult exact, AttentionResult allowed, _) = AttentionOracle.Compute(problem, AttentionInputs.Create(problem));
        Assert.That(allowed.O.Max(), Is.LessThan(relative * exact.O.Select(Math.Abs).Max()));
        Assert.That(allowed.GradQ.Max(), Is.LessThan(relative * exact.GradQ.Select(Math.Abs).Max()));
    }

    private static void AssertDerivative(string name, ProblemCase problem, AttentionInputs inputs, double[] variable, double[] gradient)
    {
        const double step = 1e-5;
        for (int i = 0; i < variable.Length; i++)
        {
            double value = variable[i];
            variable[i] = value + step;
            double above = Loss(problem, inputs);
            variable[i] = value - step;
            double below = Loss(problem, inputs);
            variable[i] = value;
            Assert.That(gradient[i], Is.EqualTo((above - below) / (2 * step)).Within(1e-7), $"{name}[{i}]");
        }
    }

    private static double Loss(ProblemCase problem, AttentionInputs inputs)
    {
        AttentionResult exact = AttentionOracle.Compute(problem, inputs).Exact;
        double loss = exact.O.Zip(inputs.GradO, (o, g) => o * g).Sum();
        for (int i = 0; i < inputs.GradLse.Length; i++)
        {
            // A row without keys has lse = -infinity and takes no part.
            loss += double.IsFinite(exact.Lse[i]) ? exact.Lse[i] * inputs.GradLse[i] : 0;
        }
        return loss;
    }

    private static AttentionInputs Inputs(double[] q, double[] k, double[] v, double[] gradO) =>
        new() { Q = q, K = k, V = v, GradO = gradO, GradLse = [] };
}
