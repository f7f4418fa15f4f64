using FlashAttention.Interop;

namespace FlashAttention.Tests;

/// <summary>Every case of the variant table, forward and backward, against the float64 oracle within both bounds. What a device has no kernel for must be
/// refused with the variant's name;
/// it is then skipped, counted and listed, so that the day a kernel computes it the same case runs.</summary>
[TestFixtureSource(typeof(TestDevice), nameof(TestDevice.Wanted))]
public sealed class VariantTests(TestDevice device) : DeviceFixture(device)
{
    [TestCaseSource(typeof(VariantTable), nameof(VariantTable.All))]
    public void ForwardAndBackwardMatchTheOracle(ProblemCase problem) => Accuracy.Check(Device, problem);

    [OneTimeTearDown]
    public void ListWhatIsUnsupported()
    {
        foreach (string line in Unsupported.List(Device))
        {
            TestContext.Progress.WriteLine("unsupported " + line);
        }
    }
}

/// <summary>What devices that are not here would say: the planner for assumed GPUs, variant by variant.</summary>
[TestFixture]
public sealed class VariantPlanTests
{
    private static readonly ProblemCase Base = new()
    {
        Format = ElementFormat.Float16,
        Batch = 2,
        HeadsQ = 4,
        HeadsKv = 2,
        LenQ = 128,
        LenKv = 256,
        HeadDim = 64,
        HeadDimV = 64,
    };

    public static IEnumerable<Variants> Single() => VariantTable.Alone.Select(c => c.Variants).Distinct().Where(v => !v.IsPacked);

    public static IEnumerable<Variants> SingleWithoutBias() => Single().Where(v => v.Bias == PairShape.None);

    /// <summary>A GPU computes a variant or refuses it by name; nothing else.</summary>
    [TestCaseSource(nameof(Single))]
    public void AnAssumedGpuComputesOrNamesTheVariant(Variants variants)
    {
        ProblemCase problem = Base with { Variants = variants };
        using var call = new AttentionCall(TestDevice.Cpu, problem, AttentionInputs.Create(problem));
        foreach (int capability in new[] { 80, 90 })
        {
            foreach (fa_pass pass in Enum.GetValues<fa_pass>())
            {
                fa_status status = call.Describe(pass, out fa_plan_description plan, capability);
                if (status == fa_status.FA_STATUS_OK)
                {
                    Assert.That(plan.kernel, Is.AnyOf(fa_kernel.FA_KERNEL_SM80, fa_kernel.FA_KERNEL_SM90));
                    continue;
                }
                Assert.That(status, Is.EqualTo(fa_status.FA_STATUS_UNSUPPORTED), NativeCall.LastMessage);
                string message = NativeCall.LastMessage;
                Assert.That(variants.Names().Any(name => message.Contains(name, StringComparison.Ordinal)), Is.True, message);
            }
        }
    }

    /// <summary>
    /// Which kernel a Hopper device takes: its own where it computes the variants, otherwise the portable one. Masks go together with windows, chunks and
    /// sinks; which bias it takes depends on alignment and sharing (PlannerTests).
    /// </summary>
    [TestCaseSource(nameof(SingleWithoutBias))]
    public void APassOnHopperIsItsOwnWhereItComputesTheVariant(Variants variants)
    {
        string[] own =
        [
            "a sliding window", "attention chunks", "softcap", "ALiBi slopes", "attention sinks", "sequences of different lengths", "a boolean mask",
            "a block mask",
        ];
        // Sets of kernels have softcap or ALiBi or masks, and masks no sequences.
        bool masks = variants.Visible != PairShape.None || variants.Block is not null;
        int others = new[] { variants.Softcap > 0, variants.Alibi != AlibiKind.None, masks }.Count(set => set);
        bool computed = variants.Names().All(name => own.Contains(name)) && others <= 1 && !(masks && variants.Sequences != SequenceKind.None);
        ProblemCase problem = Base with { Variants = variants };
        using var call = new AttentionCall(TestDevice.Cpu, problem, AttentionInputs.Create(problem));
        foreach (fa_pass pass in Enum.GetValues<fa_pass>())
        {
            fa_status status = call.Describe(pass, out fa_plan_description plan, 90);
            Assert.That(status, Is.EqualTo(fa_status.FA_STATUS_OK), NativeCall.LastMessage);
            Assert.That(plan.kernel, Is.EqualTo(computed ? fa_kernel.FA_KERNEL_SM90 : fa_kernel.FA_KERNEL_SM80), $"{pass}: {plan.Reason()}");
            if (pass == fa_pass.FA_PASS_FORWARD)
            {
                Assert.That(plan.launches, computed && masks ? Is.EqualTo(3) : Is.LessThanOrEqualTo(2));
            }
        }
    }

    /// <summary>Masks are looked at once for all that share them, and whole blocks need no bits of single pairs.</summary>
    [Test]
    public void MasksOnHopperAreLookedAtOncePerPlane()
    {
        ulong Workspace(Variants variants, int batch)
        {
            ProblemCase problem = Base with { Variants = variants, Batch = batch };
            using var call = new AttentionCall(TestDevice.Cpu, problem, AttentionInputs.Create(problem));
            Assert.That(call.Describe(fa_pass.FA_PASS_FORWARD, out fa_plan_description plan, 90), Is.EqualTo(fa_status.FA_STATUS_OK), NativeCall.LastMessage);
            return plan.workspace_bytes;
        }
        var blocks = new Variants { Block = (64, 128) };
        Assert.Multiple(() =>
        {
            Assert.That(Workspace(blocks, 8), Is.EqualTo(Workspace(blocks, 1)));
            Assert.That(Workspace(blocks, 1), Is.LessThan(Workspace(new Variants { Block = (32, 128) }, 1)));
            Assert.That(Workspace(new Variants { Visible = PairShape.Full }, 1), Is.GreaterThan(3 * Workspace(new Variants { Block = (32, 128) }, 1)));
        });
    }
}
