namespace FlashAttention.Tests;

/// <summary>Empty dimensions, rows without keys, and values that must stay where they are.</summary>
[TestFixtureSource(typeof(TestDevice), nameof(TestDevice.Wanted))]
public sealed class EdgeTests(TestDevice device) : DeviceFixture(device)
{
    private static readonly ProblemCase Base = new()
    {
        Format = ElementFormat.Float16,
        Batch = 2,
        HeadsQ = 4,
        HeadsKv = 2,
        LenQ = 33,
        LenKv = 70,
        HeadDim = 64,
        HeadDimV = 64,
        GradLse = true,
        Seed = 71,
    };

    /// <summary>Zero batches, queries or keys, under every mask: legal, O = 0, lse = -infinity, zero gradients.</summary>
    public static IEnumerable<ProblemCase> EmptyCases() =>
        from mask in Enum.GetValues<MaskKind>()
        from problem in new[] { Base with { Batch = 0 }, Base with { LenQ = 0 }, Base with { LenKv = 0 }, Base with { LenQ = 0, LenKv = 0 } }
        select problem with { Mask = mask };

    [TestCaseSource(nameof(EmptyCases))]
    public void EmptyDimensionsGiveEmptyResults(ProblemCase problem)
    {
        using var call = new AttentionCall(Device, problem, AttentionInputs.Create(problem));
        call.Forward();
        AttentionResult actual = call.ReadForward(new AttentionResult(problem));
        call.Backward();
        call.ReadBackward(actual);
        Assert.Multiple(() =>
        {
            Assert.That(actual.O, Is.All.Zero);
            Assert.That(actual.Lse, Is.All.EqualTo(double.NegativeInfinity));
            Assert.That(actual.GradQ, Is.All.Zero);
            Assert.That(actual.GradK, Is.All.Zero);
            Assert.That(actual.GradV, Is.All.Zero);
        });
    }

    /// <summary>Bottom-right with more queries than keys: the first rows see nothing. Whole tiles of them, and part of one.</summary>
    [Test]
    public void RowsWithoutKeys([Values(1, 15, 64, 129)] int lenKv, [Values(65, 200)] int lenQ)
    {
        ProblemCase problem = Base with { LenQ = lenQ, LenKv = lenKv, Mask = MaskKind.BottomRight };
        Accuracy.Check(Device, problem);
        AttentionInputs inputs = AttentionInputs.Create(problem);
        using var call = new AttentionCall(Device, problem, inputs);
        call.Forward();
        AttentionResult actual = call.ReadForward(new AttentionResult(problem));
        int empty = Math.Max(0, lenQ - lenKv);
        for (int head = 0; head < problem.Batch * problem.HeadsQ; head++)
        {
            Assert.That(actual.Lse.AsSpan(head * lenQ, empty).ToArray(), Is.All.EqualTo(double.NegativeInfinity));
            Assert.That(call.O.LoadBits().AsSpan(head * lenQ * problem.HeadDimV, empty * problem.HeadDimV).ToArray(), Is.All.Zero, "o must be +0");
        }
    }

    /// <summary>The forward pass without lse gives the same output.</summary>
    [Test]
    public void LseIsOptional([Values] MaskKind mask)
    {
        ProblemCase problem = Base with { Mask = mask };
        using var call = new AttentionCall(Device, problem, AttentionInputs.Create(problem));
        call.Forward();
        uint[] with = call.O.LoadBits();
        call.Forward(withLse: false);
        Assert.That(call.O.LoadBits(), Is.EqualTo(with));
    }

    /// <summary>A NaN key in the middle: rows before it are finite under a causal mask, rows from it on are NaN. In the keys as well as in the
    /// values.</summary>
    [Test]
    public void NanReachesOnlyRowsThatSeeIt([Values("k", "v")] string where, [Values(5, 64, 100)] int position)
    {
        ProblemCase problem = Base with { LenQ = 130, LenKv = 130, HeadsQ = 2, HeadsKv = 2, Batch = 1, Mask = MaskKind.TopLeft, GradLse = false };
        AttentionInputs inputs = AttentionInputs.Create(problem);
        double[] rows = where == "k" ? inputs.K : inputs.V;
        rows.AsSpan((problem.LenKv + position) * 64, 64).Fill(double.NaN);
        using var call = new AttentionCall(Device, problem, inputs);
        call.Forward();
        AttentionResult actual = call.ReadForward(new AttentionResult(problem));
        for (int row = 0; row < 2 * problem.LenQ; row++)
        {
            bool reached = row >= problem.LenQ + position;
            Assert.That(double.IsNaN(actual.O[row * 64 + 7]), Is.EqualTo(reached), $"o of head {row / problem.LenQ}, query {row % problem.LenQ}");
            if (where == "k")
            {
                Assert.That(double.IsNaN(actual.Lse[row]), Is.EqualTo(reached), $"lse of head {row / problem.LenQ}, query {row % problem.LenQ}");
            }
        }
    }

    /// <summary>Interleaved slices of one buffer are no overlap: O written between the heads of V's buffer.</summary>
    [Test]
    public unsafe void OutputsMayInterleaveWithInputs()
    {
        ProblemCase problem = Base with { LenQ = 40, LenKv = 40, Layout = Layout.Packed, HeadsQ = 2 };
        var blocks = new List<GuardedBlock>();
        AttentionInputs inputs = AttentionInputs.Create(problem);
        using var call = new AttentionCall(Device, problem, inputs);
        TensorBuffer[] packed = TensorStorage.AllocatePacked(Device, problem.Format, [problem.SizesV, problem.SizesO], blocks);
        try
        {
            packed[0].Store(inputs.V);
            blocks[0].BeforeCall();
            call.Forward();
            uint[] expected = call.O.LoadBits();
            foreach (GuardedBlock block in new[] { call.Q.Block, call.O.Block, call.Lse.Block })
            {
                block.BeforeCall();
            }
            call.ForwardOn(packed[0].Native, packed[1].Native);
            blocks[0].AfterCall();
            Assert.That(packed[1].LoadBits(), Is.EqualTo(expected));
            blocks[0].AssertNothingElseWritten("packed", [packed[1]]);
        }
        finally
        {
            blocks.ForEach(block => block.Dispose());
        }
    }
}
