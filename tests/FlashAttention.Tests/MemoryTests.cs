using FlashAttention.Interop;

namespace FlashAttention.Tests;

/// <summary>Extra memory is O(N): the score matrix never exists.</summary>
[TestFixtureSource(typeof(TestDevice), nameof(TestDevice.Wanted))]
public sealed class MemoryTests(TestDevice device) : DeviceFixture(device)
{
    /// <summary>Scratch that may not depend on the sequence: one tile set per CPU thread, alignment.</summary>
    private const double FixedBytesPerThread = 2 << 20;

    private static ProblemCase Long(int length) => new()
    {
        Format = ElementFormat.Float16,
        HeadsQ = 2,
        HeadsKv = 1,
        LenQ = length,
        LenKv = length,
        HeadDim = 64,
        HeadDimV = 64,
        Mask = MaskKind.BottomRight,
        Deterministic = true,
        Seed = 16,
    };

    [Test]
    public void ASequenceOf16384RunsInLinearMemory()
    {
        ProblemCase problem = Long(TestSettings.Smoke ? 2048 : 16384);
        AttentionInputs inputs = AttentionInputs.Create(problem);
        using var call = new AttentionCall(Device, problem, inputs);
        ulong forward = call.ForwardWorkspaceBytes();
        ulong backward = call.BackwardWorkspaceBytes();
        double scores = 2.0 * problem.HeadsQ * problem.LenQ * problem.LenKv * problem.Format.Bytes;
        TestContext.Out.WriteLine($"{Device}, S = {problem.LenQ}: workspace {forward} bytes forward, {backward} bytes backward; unfused {scores} bytes");
        call.Forward();
        AttentionResult actual = call.ReadForward(new AttentionResult(problem));
        call.Backward();
        call.ReadBackward(actual);
        var oracle = new SampledOracle(problem, inputs);
        int last = problem.LenQ - 1;
        foreach (int i in new[] { 0, 1, 63, 64, last / 2, last - 128, last })
        {
            oracle.CheckQuery(actual, i % 2, i);
            oracle.CheckKey(actual, 0, i);
        }
    }

    [Test]
    public unsafe void WorkspaceGrowsLinearly([Values(1024, 4096, 65536)] int length)
    {
        int threads;
        NativeCall.Check(NativeMethods.fa_cpu_get_num_threads(&threads));
        ProblemCase problem = Long(length);
        fa_plan_description forward = PlanQuery.Of(problem, fa_pass.FA_PASS_FORWARD, Device.Handle);
        fa_plan_description backward = PlanQuery.Of(problem, fa_pass.FA_PASS_BACKWARD, Device.Handle);
        double fixedBytes = FixedBytesPerThread * threads;
        // Forward: nothing per row. Backward: fp32 sums of the gradients, with padded rows, and a few numbers per row.
        double perRow = 4.0 * 2 * (problem.HeadDim + problem.HeadDimV) + 64;
        double rows = (double)problem.HeadsQ * problem.LenQ + (double)problem.HeadsKv * problem.LenKv;
        Assert.Multiple(() =>
        {
            Assert.That((double)forward.workspace_bytes, Is.LessThanOrEqualTo(fixedBytes));
            Assert.That((double)backward.workspace_bytes, Is.LessThanOrEqualTo(fixedBytes + rows * perRow));
        });
        if (length >= 16384)
        {
            Assert.That(backward.workspace_bytes / backward.unfused_scratch_bytes, Is.LessThan(0.01), "1 % of the unfused form's scratch");
        }
    }
}
