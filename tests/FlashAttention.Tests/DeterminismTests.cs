using FlashAttention.Interop;

namespace FlashAttention.Tests;

/// <summary>Equal inputs give equal bits: from run to run, from several threads at once, and on the CPU for any number of threads.</summary>
[TestFixtureSource(typeof(TestDevice), nameof(TestDevice.Wanted))]
public sealed class DeterminismTests(TestDevice device) : DeviceFixture(device)
{
    private const int Repeats = 4;

    /// <summary>Problems with several tiles per row and grouped heads, where the order of sums could vary.</summary>
    public static IEnumerable<ProblemCase> Cases() =>
        from mask in Enum.GetValues<MaskKind>()
        from headDim in TestSettings.Smoke ? new[] { 64 } : [64, 128, 192]
        select new ProblemCase
        {
            Format = headDim == 64 ? ElementFormat.BFloat16 : ElementFormat.Float16,
            Batch = 2,
            HeadsQ = 4,
            HeadsKv = 2,
            LenQ = 193,
            LenKv = 259,
            HeadDim = headDim,
            HeadDimV = headDim,
            Mask = mask,
            Deterministic = true,
            Seed = 31 + headDim,
        };

    /// <summary>Variants whose gradients are sums over heads and batches, or whose work is spread unevenly.</summary>
    public static IEnumerable<ProblemCase> VariantCases() =>
        from variants in new Variants[]
        {
            new() { Bias = PairShape.Shared, Sinks = true, Softcap = 5 },
            new() { Bias = PairShape.HeadKeys, BiasFloat32 = true, Dropout = 0.2f, Alibi = AlibiKind.PerBatch },
            new() { Sequences = SequenceKind.PackedUsed, Sinks = true, Window = (40, 3), Bias = PairShape.Keys },
            new() { Visible = PairShape.Heads, Block = (32, 32), Chunk = 100, Sequences = SequenceKind.LeftPadded },
        }
        let all = Cases().First(c => c.Mask == MaskKind.BottomRight)
        select all with { Variants = variants, Batch = variants.IsPacked ? 1 : 2 };

    [TestCaseSource(nameof(VariantCases))]
    public void VariantsAreBitwiseEqualForAnyNumberOfThreads(ProblemCase problem)
    {
        AttentionInputs inputs = AttentionInputs.Create(problem);
        using (var call = new AttentionCall(Device, problem, inputs))
        {
            if (Refusal.OfVariant(Device, problem, call) is { } variant)
            {
                Unsupported.Count(Device, variant);
            }
        }
        AssertRepeats(problem);
        if (!Device.IsCuda)
        {
            TheNumberOfCpuThreadsChangesNoBit(problem);
        }
    }

    [TestCaseSource(nameof(Cases))]
    public void RepeatsAreBitwiseEqual(ProblemCase problem) => AssertRepeats(problem);

    /// <summary>The header promises this for the CPU only.</summary>
    [TestCaseSource(nameof(Cases))]
    public void TheCpuIsDeterministicEitherWay(ProblemCase problem)
    {
        if (Device.IsCuda)
        {
            Assert.Ignore("Promised for the CPU backend only.");
        }
        AssertRepeats(problem with { Deterministic = false });
        AssertRepeats(problem with { Format = ElementFormat.Float32 });
    }

    [TestCaseSource(nameof(Cases))]
    public void CallsFromSeveralThreadsAreBitwiseEqual(ProblemCase problem)
    {
        AttentionInputs inputs = AttentionInputs.Create(problem);
        uint[][] expected = Bits(problem, inputs);
        var failures = new System.Collections.Concurrent.ConcurrentQueue<Exception>();
        Thread[] threads = Enumerable.Range(0, 6).Select(_ => new Thread(() =>
        {
            try
            {
                AssertSame(Bits(problem, inputs), expected, "another thread");
            }
            catch (Exception e)
            {
                failures.Enqueue(e);
            }
        })).ToArray();
        Array.ForEach(threads, thread => thread.Start());
        Array.ForEach(threads, thread => thread.Join());
        Assert.That(failures, Is.Empty);
    }

    [TestCaseSource(nameof(Cases))]
    public unsafe void TheNumberOfCpuThreadsChangesNoBit(ProblemCase problem)
    {
        if (Device.IsCuda)
        {
            Assert.Ignore("The CUDA backend has no such setting.");
        }
        AttentionInputs inputs = AttentionInputs.Create(problem);
        int before;
        NativeCall.Check(NativeMethods.fa_cpu_get_num_threads(&before));
        try
        {
            NativeCall.Check(NativeMethods.fa_cpu_set_num_threads(1));
            uint[][] expected = Bits(problem, inputs);
            foreach (int threads in new[] { 2, 3, 7 })
            {
                NativeCall.Check(NativeMethods.fa_cpu_set_num_threads(threads));
                AssertSame(Bits(problem, inputs), expected, $"{threads} threads");
            }
        }
        finally
        {
            NativeCall.Check(NativeMethods.fa_cpu_set_num_threads(before));
        }
    }

    [Test]
    public unsafe void ThreadCountsFrom1To1024AreAccepted()
    {
        int before;
        NativeCall.Check(NativeMethods.fa_cpu_get_num_threads(&before));
        try
        {
            foreach (int threads in new[] { 1, 2, 1024 })
            {
                int now;
                NativeCall.Check(NativeMethods.fa_cpu_set_num_threads(threads));
                NativeCall.Check(NativeMethods.fa_cpu_get_num_threads(&now));
                Assert.That(now, Is.EqualTo(threads));
            }
            int all;
            NativeCall.Check(NativeMethods.fa_cpu_set_num_threads(0));
            NativeCall.Check(NativeMethods.fa_cpu_get_num_threads(&all));
            Assert.That(all, Is.InRange(1, 1024), "0 stands for the processors of this process");
        }
        finally
        {
            NativeCall.Check(NativeMethods.fa_cpu_set_num_threads(before));
        }
    }

    private void AssertRepeats(ProblemCase problem)
    {
        AttentionInputs inputs = AttentionInputs.Create(problem);
        uint[][] expected = Bits(problem, inputs);
        for (int i = 1; i < Repeats; i++)
        {
            AssertSame(Bits(problem, inputs), expected, $"run {i}");
        }
    }

    private uint[][] Bits(ProblemCase problem, AttentionInputs inputs)
    {
        using var call = new AttentionCall(Device, problem, inputs);
        call.Forward();
        uint[][] forward = [call.O.LoadBits(), call.Lse.LoadBits()];
        call.Backward();
        return [.. forward, .. call.Gradients.Select(gradient => gradient.LoadBits())];
    }

    private static void AssertSame(uint[][] actual, uint[][] expected, string what)
    {
        string[] names = ["o", "lse", "grad_q", "grad_k", "grad_v", "grad_bias or grad_sinks", "grad_sinks"];
        for (int i = 0; i < expected.Length; i++)
        {
            int same = actual[i].AsSpan().CommonPrefixLength(expected[i]);
            Assert.That(same, Is.EqualTo(expected[i].Length), $"{what}: {names[i]} differs at element {same}");
        }
    }
}
