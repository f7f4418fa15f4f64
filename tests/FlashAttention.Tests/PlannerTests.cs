using FlashAttention.Interop;

namespace FlashAttention.Tests;

/// <summary>What fa_attention_describe says, for real and assumed devices. None of it needs a GPU.</summary>
[TestFixture]
public sealed class PlannerTests
{
    private static readonly fa_device Cpu = TestDevice.Cpu.Handle;
    private static readonly fa_device Cuda = TestDevice.Cuda.Handle;

    private static readonly ProblemCase Base = new()
    {
        Format = ElementFormat.Float16,
        Batch = 2,
        HeadsQ = 8,
        HeadsKv = 2,
        LenQ = 300,
        LenKv = 500,
        HeadDim = 128,
        HeadDimV = 128,
    };

    /// <summary>Lengths in every order of size, so that each mask has rows with no, some and all keys.</summary>
    [Test]
    public void FlopsCountVisiblePairsExactly([Values] MaskKind mask, [Values(1, 7, 64, 300)] int lenQ, [Values(0, 1, 9, 64, 500)] int lenKv)
    {
        ProblemCase problem = Base with { Mask = mask, LenQ = lenQ, LenKv = lenKv };
        double pairs = (double)problem.Batch * problem.HeadsQ * Enumerable.Range(0, lenQ).Sum(problem.VisibleKeys);
        fa_plan_description forward = PlanQuery.Of(problem, fa_pass.FA_PASS_FORWARD, Cpu);
        fa_plan_description backward = PlanQuery.Of(problem, fa_pass.FA_PASS_BACKWARD, Cpu);
        Assert.Multiple(() =>
        {
            Assert.That(forward.exponentials, Is.EqualTo(pairs));
            Assert.That(forward.flops, Is.EqualTo(4 * pairs * problem.HeadDim));
            Assert.That(backward.flops, Is.EqualTo(2.5 * forward.flops));
        });
    }

    /// <summary>Forward: S = QKᵀ over head_dim, PV over head_dim_v. Backward: S, dQ, dK over head_dim, dP, dV over head_dim_v.</summary>
    [Test]
    public void FlopsTellTheHeadDimsApart()
    {
        ProblemCase problem = Base with { HeadDim = 192, HeadDimV = 64 };
        double pairs = (double)problem.Batch * problem.HeadsQ * problem.LenQ * problem.LenKv;
        Assert.Multiple(() =>
        {
            Assert.That(PlanQuery.Of(problem, fa_pass.FA_PASS_FORWARD, Cpu).flops, Is.EqualTo(pairs * 2 * (192 + 64)));
            Assert.That(PlanQuery.Of(problem, fa_pass.FA_PASS_BACKWARD, Cpu).flops, Is.EqualTo(pairs * 2 * (3 * 192 + 2 * 64)));
        });
    }

    [Test]
    public void BytesAreTheTensorsOnce()
    {
        double q = (double)Base.Batch * Base.HeadsQ * Base.LenQ;
        double kv = (double)Base.Batch * Base.HeadsKv * Base.LenKv;
        fa_plan_description plan = PlanQuery.Of(Base, fa_pass.FA_PASS_FORWARD, Cpu);
        Assert.Multiple(() =>
        {
            Assert.That(plan.minimum_bytes, Is.EqualTo(2 * (q + kv) * (128 + 128) + 4 * q), "q, o, k, v in fp16 and lse in fp32");
            Assert.That(plan.tiled_bytes, Is.GreaterThanOrEqualTo(plan.minimum_bytes));
            Assert.That(plan.unfused_bytes, Is.GreaterThan(plan.minimum_bytes));
            Assert.That(plan.unfused_scratch_bytes, Is.EqualTo(2 * q * Base.LenKv * 2));
        });
    }

    [TestCase(80)]
    [TestCase(86)]
    [TestCase(89)]
    [TestCase(120)]
    public void PortableKernelsRunOnEveryGpuFromAmpereOn(int capability)
    {
        foreach (int headDim in new[] { 8, 40, 64, 96, 128, 160, 192, 256, 264, 320, 512 })
        {
            foreach (fa_pass pass in Enum.GetValues<fa_pass>())
            {
                fa_plan_description plan = PlanQuery.Of(Base with { HeadDim = headDim, HeadDimV = headDim }, pass, Cuda, capability);
                AssertSensible(plan, SharedMemoryLimit(capability));
                Assert.That(plan.kernel, Is.EqualTo(fa_kernel.FA_KERNEL_SM80), plan.Reason());
                Assert.That(plan.threads * plan.registers_per_thread, Is.LessThanOrEqualTo(64 * 1024), "a block's registers fit the register file");
            }
        }
    }

    /// <summary>Large tiles where shared memory and the number of blocks allow, but none for short causal problems.</summary>
    [TestCase(90, 4096, MaskKind.None, 128, 128)]
    [TestCase(90, 4096, MaskKind.BottomRight, 128, 128)]
    [TestCase(90, 512, MaskKind.BottomRight, 64, 64)]
    [TestCase(90, 256, MaskKind.None, 64, 64)]
    [TestCase(80, 4096, MaskKind.None, 128, 64)]
    [TestCase(86, 4096, MaskKind.None, 64, 64)]
    public void PortableForwardTilesAtHeadDim256(int capability, int length, MaskKind mask, int tileQ, int tileKv)
    {
        ProblemCase problem = Base with { HeadDim = 256, HeadDimV = 256, LenQ = length, LenKv = length, Mask = mask };
        NativeCall.Check(PlanQuery.Try(problem, fa_pass.FA_PASS_FORWARD, Cuda, out fa_plan_description plan, capability, 132, fa_kernel.FA_KERNEL_SM80));
        AssertSensible(plan, SharedMemoryLimit(capability));
        Assert.That((plan.tile_q, plan.tile_kv), Is.EqualTo((tileQ, tileKv)), plan.Reason());
    }

    [Test]
    public void HopperUsesItsOwnForwardKernel([Values(64, 128)] int headDim, [Values] MaskKind mask)
    {
        ProblemCase problem = Base with { HeadDim = headDim, HeadDimV = headDim, Mask = mask };
        fa_plan_description plan = PlanQuery.Of(problem, fa_pass.FA_PASS_FORWARD, Cuda, 90);
        AssertSensible(plan, SharedMemoryLimit(90));
        Assert.That(plan.kernel, Is.EqualTo(fa_kernel.FA_KERNEL_SM90), plan.Reason());
        AssertSensible(PlanQuery.Of(problem, fa_pass.FA_PASS_BACKWARD, Cuda, 90), SharedMemoryLimit(90));
    }

    /// <summary>Short causal problems leave multiprocessors idle where every other block then gets tiles of the same work; the others take all.</summary>
    [TestCase(128, 512, 32, MaskKind.BottomRight, 128)]
    [TestCase(192, 1024, 16, MaskKind.BottomRight, 128)]
    [TestCase(256, 1024, 16, MaskKind.BottomRight, 128)]
    [TestCase(256, 1024, 15, MaskKind.BottomRight, 132)]
    [TestCase(64, 512, 32, MaskKind.BottomRight, 132)]
    [TestCase(128, 512, 32, MaskKind.None, 132)]
    public void HopperForwardBlocksOfShortProblems(int headDim, int length, int batch, MaskKind mask, int blocks)
    {
        fa_plan_description plan = HopperForwardPlan(headDim, length, batch, mask);
        Assert.That(plan.blocks, Is.EqualTo(blocks), plan.Reason());
    }

    /// <summary>Long problems without a mask share the last, partial round of query tiles, for which they need a workspace; where that round is nearly full, or
    /// short, they do not.</summary>
    [TestCase(128, 8192, 2, MaskKind.None, true)]
    [TestCase(128, 16384, 1, MaskKind.None, true)]
    [TestCase(128, 8192, 2, MaskKind.BottomRight, false)]
    [TestCase(128, 1024, 16, MaskKind.None, false)]
    [TestCase(128, 512, 1, MaskKind.None, false)]
    public void HopperForwardSharesTheLastRound(int headDim, int length, int batch, MaskKind mask, bool shares)
    {
        fa_plan_description plan = HopperForwardPlan(headDim, length, batch, mask);
        Assert.That(plan.workspace_bytes > 0, Is.EqualTo(shares), plan.Reason());
        Assert.That(plan.workspace_bytes, Is.LessThan(32UL << 20));
        Assert.That(plan.Reason().Contains("shared along the keys", StringComparison.Ordinal), Is.EqualTo(shares), plan.Reason());
    }

    /// <summary>Above head_dim 128 a cluster of two blocks shares a tile of 128 keys.</summary>
    [Test]
    public void HopperUsesItsOwnBackwardKernel([Values(8, 64, 128, 136, 192, 200, 256)] int headDim, [Values] MaskKind mask)
    {
        ProblemCase problem = Base with { HeadDim = headDim, HeadDimV = headDim, Mask = mask };
        fa_plan_description plan = PlanQuery.Of(problem, fa_pass.FA_PASS_BACKWARD, Cuda, 90);
        AssertSensible(plan, SharedMemoryLimit(90));
        long keyTiles = (problem.LenKv + 127) / 128 * problem.Batch * problem.HeadsKv;
        Assert.Multiple(() =>
        {
            Assert.That(plan.kernel, Is.EqualTo(fa_kernel.FA_KERNEL_SM90), plan.Reason());
            Assert.That(plan.tile_kv, Is.EqualTo(128));
            Assert.That(plan.blocks, Is.EqualTo(headDim > 128 ? 2 * keyTiles : keyTiles));
        });
    }

    /// <summary>From 2048 queries, at head_dim 64 in any order from 1025, parts of grad_q go through shared memory: two buffers of 32 KiB.</summary>
    [TestCase(128, 2047, false, false)]
    [TestCase(128, 2048, true, true)]
    [TestCase(128, 16384, true, true)]
    [TestCase(96, 5000, true, true)]
    [TestCase(64, 1024, false, false)]
    [TestCase(64, 1025, true, false)]
    [TestCase(64, 2047, true, false)]
    [TestCase(40, 2048, true, true)]
    public void LongSequencesAddInBulk(int headDim, int length, bool anyOrder, bool inOrder)
    {
        Assert.Multiple(() =>
        {
            foreach (bool deterministic in new[] { false, true })
            {
                ProblemCase problem = Base with { LenQ = length, LenKv = 300, HeadDim = headDim, HeadDimV = headDim, Deterministic = deterministic };
                fa_plan_description plan = PlanQuery.Of(problem, fa_pass.FA_PASS_BACKWARD, Cuda, 90);
                fa_plan_description shorter = PlanQuery.Of(problem with { LenQ = 100 }, fa_pass.FA_PASS_BACKWARD, Cuda, 90);
                AssertSensible(plan, SharedMemoryLimit(90));
                Assert.That(plan.shared_memory_bytes - shorter.shared_memory_bytes, Is.EqualTo((deterministic ? inOrder : anyOrder) ? 65536 : 0), plan.Reason());
            }
        });
    }

    /// <summary>The deterministic mode up to head_dim 128: the default's tiles and passes at every length.</summary>
    [TestCase(64, 100)]
    [TestCase(64, 5000)]
    [TestCase(128, 300)]
    [TestCase(96, 3000)]
    public void DeterministicBackwardKernels(int headDim, int length)
    {
        ProblemCase problem = Base with { LenQ = length, LenKv = length, HeadDim = headDim, HeadDimV = headDim, Deterministic = true };
        fa_plan_description plan = PlanQuery.Of(problem, fa_pass.FA_PASS_BACKWARD, Cuda, 90);
        AssertSensible(plan, SharedMemoryLimit(90));
        Assert.Multiple(() =>
        {
            Assert.That(plan.KernelName(), Does.EndWith("128_deterministic"));
            Assert.That(plan.launches, Is.EqualTo(3), "prepare, main, finish");
        });
    }

    /// <summary>
    /// Above head_dim 128 key tiles are added in order, with one kernel less, for 257 to 4096 queries of at least 32 key heads (up to 1024 with head_dim above
    /// 192 and no mask), and always when that is asked for.
    /// </summary>
    [TestCase(256, 256, 32, false, false, false)]
    [TestCase(257, 256, 32, false, true, true)]
    [TestCase(300, 500, 32, false, true, true)]
    [TestCase(512, 512, 31, false, false, false)]
    [TestCase(1024, 1024, 32, false, true, true)]
    [TestCase(1025, 1024, 32, false, true, false)]
    [TestCase(1024, 1025, 32, false, true, false)]
    [TestCase(4096, 4096, 32, false, true, false)]
    [TestCase(4096, 4097, 32, false, false, false)]
    [TestCase(4097, 4096, 32, false, false, false)]
    [TestCase(100, 5000, 1, true, true, true)]
    public void WideHeadsAddInOrder(int lenQ, int lenKv, int batch, bool deterministic, bool ordered, bool orderedWidest)
    {
        foreach (int headDim in new[] { 136, 192, 200, 256 })
        {
            foreach (MaskKind mask in new[] { MaskKind.None, MaskKind.BottomRight })
            {
                fa_plan_description plan = HopperBackwardPlan(lenQ, lenKv, batch, headDim, deterministic, mask);
                bool expected = mask == MaskKind.None && headDim > 192 ? orderedWidest : ordered;
                int launches = (expected ? 2 : 3) + (mask == MaskKind.None ? 0 : 1);
                Assert.That(plan.KernelName().EndsWith("_deterministic", StringComparison.Ordinal), Is.EqualTo(expected), plan.Reason());
                Assert.That(plan.launches, Is.EqualTo(launches), "prepare, main, unless the main kernel rounds grad_q finish, and with a mask repair");
            }
        }
    }

    /// <summary>The plan of a forward pass of heads of 2048 columns in all, as many keys as queries.</summary>
    private static fa_plan_description HopperForwardPlan(int headDim, int length, int batch, MaskKind mask)
    {
        int heads = 2048 / headDim;
        ProblemCase problem = Base with
        {
            Batch = batch,
            HeadsQ = heads,
            HeadsKv = heads,
            HeadDim = headDim,
            HeadDimV = headDim,
            LenQ = length,
            LenKv = length,
            Mask = mask,
        };
        return PlanQuery.Of(problem, fa_pass.FA_PASS_FORWARD, Cuda, 90);
    }

    /// <summary>The plan of a backward pass of two query heads that share a key head.</summary>
    private static fa_plan_description HopperBackwardPlan(int lenQ, int lenKv, int batch, int headDim, bool deterministic, MaskKind mask)
    {
        ProblemCase problem = Base with
        {
            LenQ = lenQ,
            LenKv = lenKv,
            Batch = batch,
            HeadsQ = 2,
            HeadsKv = 1,
            HeadDim = headDim,
            HeadDimV = headDim,
            Deterministic = deterministic,
            Mask = mask,
        };
        fa_plan_description plan = PlanQuery.Of(problem, fa_pass.FA_PASS_BACKWARD, Cuda, 90);
        AssertSensible(plan, SharedMemoryLimit(90));
        return plan;
    }

    /// <summary>At head_dim 64 persistent blocks serve 129 to 1024 queries and keys of at least four key tiles per multiprocessor.</summary>
    [TestCase(512, 512, 132, 64, false, true)]
    [TestCase(512, 512, 131, 64, false, false)]
    [TestCase(257, 257, 176, 40, false, true)]
    [TestCase(129, 129, 264, 64, false, true)]
    [TestCase(129, 129, 263, 64, false, false)]
    [TestCase(128, 129, 264, 64, false, false)]
    [TestCase(129, 128, 600, 64, false, false)]
    [TestCase(1024, 1024, 66, 64, false, true)]
    [TestCase(1025, 1024, 66, 64, false, false)]
    [TestCase(1024, 1025, 66, 64, false, false)]
    [TestCase(512, 512, 132, 72, false, false)]
    [TestCase(512, 512, 132, 64, true, false)]
    public void ShortBackwardProblemsTakePersistentBlocks(int lenQ, int lenKv, int batch, int headDim, bool deterministic, bool persistent)
    {
        foreach (MaskKind mask in new[] { MaskKind.None, MaskKind.TopLeft, MaskKind.BottomRight })
        {
            fa_plan_description plan = HopperBackwardPlan(lenQ, lenKv, batch, headDim, deterministic, mask);
            Assert.That(plan.KernelName().EndsWith("_persistent", StringComparison.Ordinal), Is.EqualTo(persistent), plan.KernelName());
        }
    }

    /// <summary>TMA brings a bias of 16 bits with a row for every query and rows of whole 16 bytes; with anything else the portable kernels compute.</summary>
    [TestCase("f16", 300, 504, "none", 0, true)]
    [TestCase("f16", 300, 504, "causal", 0, true)]
    [TestCase("f16", 300, 500, "none", 0, false)]
    [TestCase("f16", 1, 504, "none", 0, false)]
    [TestCase("f32", 300, 504, "none", 0, false)]
    [TestCase("f16", 300, 504, "none", 20, false)]
    public void HopperTakesABiasInTiles(string format, int rows, int rowStride, string mask, float softcap, bool onHopper)
    {
        ElementFormat element = format == "f32" ? ElementFormat.Float32 : ElementFormat.Float16;
        foreach (int headDim in new[] { 64, 128 })
        {
            ProblemCase problem = Base with
            {
                HeadDim = headDim,
                HeadDimV = headDim,
                Mask = mask == "none" ? MaskKind.None : MaskKind.BottomRight,
            };
            fa_status status = PlanQuery.Try(
                problem, fa_pass.FA_PASS_BACKWARD, Cuda, out fa_plan_description plan, 90, bias: new(element, rows, problem.LenKv, rowStride), softcap: softcap);
            Assert.That(status, Is.EqualTo(fa_status.FA_STATUS_OK), NativeCall.LastMessage);
            Assert.That(plan.kernel, Is.EqualTo(onHopper ? fa_kernel.FA_KERNEL_SM90 : fa_kernel.FA_KERNEL_SM80), plan.Reason());
            Assert.That(plan.KernelName().EndsWith("_bias", StringComparison.Ordinal), Is.EqualTo(onHopper), plan.KernelName());
        }
    }

    [Test]
    public void APlanCanBeInsistedOn()
    {
        fa_status status = PlanQuery.Try(Base, fa_pass.FA_PASS_FORWARD, Cuda, out fa_plan_description plan, 90, kernel: fa_kernel.FA_KERNEL_SM80);
        Assert.Multiple(() =>
        {
            Assert.That(status, Is.EqualTo(fa_status.FA_STATUS_OK), NativeCall.LastMessage);
            Assert.That(plan.kernel, Is.EqualTo(fa_kernel.FA_KERNEL_SM80));
            Assert.That(PlanQuery.Of(Base, fa_pass.FA_PASS_FORWARD, Cpu).kernel, Is.EqualTo(fa_kernel.FA_KERNEL_CPU));
        });
    }

    /// <summary>Each refusal says why, for every family that was asked.</summary>
    [TestCase("f32", 128, 128, 80, "float32")]
    [TestCase("f16", 520, 64, 80, "520")]
    [TestCase("bf16", 64, 36, 86, "multiples of 8")]
    [TestCase("f16", 64, 64, 75, "7.5")]
    public void RefusalsSayWhy(string format, int headDim, int headDimV, int capability, string part)
    {
        ElementFormat element = new[] { ElementFormat.Float32, ElementFormat.Float16, ElementFormat.BFloat16 }.Single(f => f.Name == format);
        fa_status status = PlanQuery.Try(
            Base with { Format = element, HeadDim = headDim, HeadDimV = headDimV }, fa_pass.FA_PASS_FORWARD, Cuda, out _, capability);
        Assert.That(status, Is.EqualTo(fa_status.FA_STATUS_UNSUPPORTED));
        Assert.That(NativeCall.LastMessage, Does.Contain("sm80").And.Contain("sm90").And.Contain(part));
    }

    [Test]
    public void TheCpuComputesEveryHeadDimUpTo512([Values(1, 3, 64, 511, 512)] int headDim, [Values] PassName pass)
    {
        fa_plan_description plan = PlanQuery.Of(Base with { Format = ElementFormat.Float32, HeadDim = headDim, HeadDimV = headDim }, (fa_pass)(int)pass, Cpu);
        Assert.Multiple(() =>
        {
            Assert.That(plan.kernel, Is.EqualTo(fa_kernel.FA_KERNEL_CPU));
            Assert.That(plan.KernelName(), Is.Not.Empty);
            Assert.That(plan.workspace_bytes, Is.GreaterThan(0));
            Assert.That(plan.threads, Is.GreaterThan(0));
            Assert.That(plan.registers_per_thread, Is.Zero);
        });
    }

    /// <summary>Public names for fa_pass, which is internal.</summary>
    public enum PassName
    {
        Forward,
        Backward,
    }

    private static int SharedMemoryLimit(int capability) => 1024 * capability switch { 80 => 163, 90 => 227, _ => 99 };

    private static void AssertSensible(fa_plan_description plan, int sharedMemoryLimit)
    {
        Assert.Multiple(() =>
        {
            Assert.That(plan.KernelName(), Is.Not.Empty);
            Assert.That(plan.Reason(), Is.Not.Empty);
            Assert.That(plan.tile_q, Is.GreaterThan(0));
            Assert.That(plan.tile_kv, Is.GreaterThan(0));
            Assert.That(plan.stages, Is.GreaterThanOrEqualTo(1));
            Assert.That(plan.threads, Is.InRange(32, 1024));
            Assert.That(plan.threads % 32, Is.Zero);
            Assert.That(plan.registers_per_thread, Is.InRange(1, 255));
            Assert.That(plan.launches, Is.GreaterThanOrEqualTo(1));
            Assert.That(plan.blocks, Is.GreaterThan(0));
            Assert.That(plan.shared_memory_bytes, Is.InRange(1, sharedMemoryLimit));
        });
    }
}
