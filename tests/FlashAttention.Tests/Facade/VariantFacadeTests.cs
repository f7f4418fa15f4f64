using System.Buffers;
using System.Numerics.Tensors;

namespace FlashAttention.Tests;

/// <summary>Masks and modifiers of the facade: host tensors, arrays and device memory give what the shipped reference gives, and wrong combinations are
/// refused by name.</summary>
[TestFixture]
public sealed class VariantFacadeTests
{
    private const int Batch = 2, LengthQ = 19, LengthKv = 27, HeadsQ = 4, HeadsKv = 2, HeadDim = 24, HeadDimV = 16;

    private static readonly Alignment[] Alignments = [Alignment.TopLeft, Alignment.BottomRight];

    /// <summary>One option, or several that go together, for each name.</summary>
    public static IEnumerable<TestCaseData> Cases()
    {
        foreach (Alignment alignment in Alignments)
        {
            yield return Named("window " + alignment, new() { Mask = Mask.Window(5, 3, alignment) });
            yield return Named("causal window " + alignment, new() { Mask = Mask.Causal(alignment) & Mask.Window(left: 6) });
            yield return Named("chunk " + alignment, new() { Mask = Mask.Chunk(8, alignment) });
            yield return Named("causal chunk " + alignment, new() { Mask = Mask.Chunk(8) & Mask.Causal(alignment) });
            Mask both = Mask.Window(right: 4) & Mask.Chunk(8) & Mask.Window(left: 9, alignment: alignment);
            yield return Named("window and chunk " + alignment, new() { Mask = both });
            yield return Named("alibi " + alignment, new() { Mask = Mask.Causal(alignment), Alibi = new Alibi(Alibi.StandardSlopes(HeadsQ)) });
        }

        yield return Named("softcap", new() { Softcap = 2 });
        yield return Named("alibi per batch", new() { Alibi = new Alibi(Floats(Batch * HeadsQ, 1)) { PerBatch = true } });
        yield return Named("bias", new() { Bias = new Bias(Random(2, Batch, HeadsQ, LengthQ, LengthKv)) });
        yield return Named("bias of keys", new() { Bias = new Bias(Random(3, Batch, 1, 1, LengthKv)) });
        yield return Named("sinks", new() { Sinks = new Sinks(Floats(HeadsQ, 4)) });
        TensorShape shared = new(1, 1, LengthQ, LengthKv);
        yield return Named("visible", new() { Visible = new VisibleMask(AttentionTensor.From<bool>(Bools(LengthQ * LengthKv, 5), shared)) });
        yield return Named("key padding", new() { Visible = VisibleMask.Keys(Bools(Batch * LengthKv, 6), Batch) });
        AttentionTensor blocks = AttentionTensor.From<byte>(new byte[] { 1, 0, 1, 1 }, new TensorShape(1, 1, 2, 2));
        yield return Named("blocks", new() { BlockMask = new BlockMask(blocks, 16, 16) });
        yield return Named("dropout", new() { Dropout = new Dropout(0.3f, 0x1234_5678_9ABC_DEF0, 7) });
        yield return Named("padded", new() { Sequences = Sequences.Padded(new[] { 19, 4 }, new[] { 11, 27 }) });
        yield return Named("left padded", new() { Sequences = Sequences.Padded(new[] { 3, 19 }, new[] { 11, 27 }) with { LeftPadded = true } });
        yield return Named("all", new()
        {
            Mask = Mask.Causal(Alignment.BottomRight) & Mask.Window(left: 20) & Mask.Chunk(25),
            Softcap = 3,
            Alibi = new Alibi(Floats(HeadsQ, 8)),
            Bias = new Bias(Random(9, 1, HeadsQ, LengthQ, LengthKv)),
            Sinks = new Sinks(Floats(HeadsQ, 10)),
            Visible = VisibleMask.Keys(Bools(Batch * LengthKv, 11), Batch),
            Dropout = new Dropout(0.2f, 99),
            Sequences = Sequences.Padded(null, new[] { 26, 25 }),
        });
    }

    [TestCaseSource(nameof(Cases))]
    public void HostCallsMatchTheReference(AttentionOptions options)
    {
        Problem p = new(Batch, LengthQ, LengthKv);
        p.RunOnHost(options);
        p.AssertMatchesReference(options);
    }

    /// <summary>Tensors and arrays of the CPU device, as a caller with a GPU would pass them.</summary>
    [Test]
    public void DeviceMemoryServesAsWell()
    {
        using DeviceTensor<float> bias = DeviceTensor.From<float>(Device.Cpu, new TensorShape(1, HeadsQ, 1, LengthKv), Floats(HeadsQ * LengthKv, 2));
        using DeviceArray<float> sinks = new(Device.Cpu, Floats(HeadsQ, 3));
        using DeviceArray<int> used = new(Device.Cpu, [20, 27]);
        AttentionOptions onDevice = new() { Bias = new Bias(bias), Sinks = new Sinks(sinks), Sequences = Sequences.Padded(null, used) };
        AttentionOptions onHost = new()
        {
            Bias = new Bias(AttentionTensor.From<float>(bias.ToArray(), bias.Sizes)),
            Sinks = new Sinks(sinks.ToArray()),
            Sequences = Sequences.Padded(null, used.ToArray()),
        };
        Problem p = new(Batch, LengthQ, LengthKv);
        p.RunOnHost(onDevice);
        p.AssertMatchesReference(onHost);
        bias.Dispose();
        Assert.That(() => p.RunOnHost(onDevice), Throws.InstanceOf<ObjectDisposedException>());
    }

    [Test]
    public void PackedSequencesAreTheSequencesApart()
    {
        int[] offsetsQ = [0, 7, 7, 19], offsetsKv = [0, 5, 14, 27];
        AttentionOptions options = new() { Mask = Mask.Causal(Alignment.BottomRight), Sequences = Sequences.Packed(offsetsQ, offsetsKv, 12, 13) };
        Problem p = new(1, LengthQ, LengthKv);
        p.RunOnHost(options);
        p.AssertMatchesReference(options);
        Assert.That(() => Sequences.Packed(offsetsQ, new[] { 0, 1 }, 12, 13), Throws.ArgumentException.With.Message.Contains("offsetsKv"));
    }

    [Test]
    public void MasksCompose()
    {
        Mask window = Mask.Causal(Alignment.BottomRight) & Mask.Window(left: 1023);
        Assert.Multiple(() =>
        {
            Assert.That(window, Is.EqualTo(Mask.Window(1023, 0, Alignment.BottomRight)), "causal is a window that ends at the position");
            Assert.That(Mask.Window(9, 4, Alignment.TopLeft) & Mask.Window(5, 8), Is.EqualTo(Mask.Window(5, 4, Alignment.TopLeft)));
            Assert.That(Mask.None & window, Is.EqualTo(window));
            Assert.That(Mask.Causal(Alignment.TopLeft) & Mask.Causal(Alignment.TopLeft), Is.EqualTo(Mask.Causal(Alignment.TopLeft)));
            Assert.That((window & Mask.Chunk(64)).ToString(), Is.EqualTo("window 1023 left, 0 right, bottom-right and chunks of 64"));
            Assert.That(() => Mask.Causal(Alignment.TopLeft) & Mask.Window(3, 3, Alignment.BottomRight),
                Throws.ArgumentException.With.Message.Contains("'causal, top-left' cannot be combined with 'window 3 left, 3 right, bottom-right'"));
            Assert.That(() => Mask.Chunk(4) & Mask.Chunk(8), Throws.ArgumentException.With.Message.Contains("chunks of 4").And.Message.Contains("chunks of 8"));
            Assert.That(() => Mask.Window(left: -1), Throws.InstanceOf<ArgumentOutOfRangeException>());
            Assert.That(() => Mask.Chunk(0), Throws.InstanceOf<ArgumentOutOfRangeException>());
        });
    }

    [Test]
    public void WrongOptionsNameTheProblem()
    {
        Problem p = new(Batch, LengthQ, LengthKv);
        (AttentionOptions Options, string Part)[] wrong =
        [
            (new() { Mask = Mask.Window(left: 4) }, "options.Mask: expected an alignment"),
            (new() { Softcap = 0 }, "options.Softcap"),
            (new() { Softcap = float.NaN }, "options.Softcap"),
            (new() { Alibi = new Alibi(new float[3]) }, "options.Alibi.Slopes: expected 4 elements, got 3"),
            (new() { Alibi = new Alibi(new float[4]) { PerBatch = true } }, "options.Alibi.Slopes: expected 8 elements, got 4"),
            (new() { Sinks = new Sinks(new float[5]) }, "options.Sinks.Logits"),
            (new() { Sequences = Sequences.Padded(new[] { 1, 2, 3 }, null) }, "sequences.count"),
            (new() { Sequences = Sequences.Padded(new[] { 1, 20 }, null) }, "seqused_q[1]"),
            (new() { Bias = new Bias(Random(1, Batch, HeadsQ, LengthQ, 5)) }, "bias.sizes[3]"),
            (new() { Dropout = new Dropout(1, 0) }, "dropout"),
            (new() { BlockMask = new BlockMask(AttentionTensor.From<byte>(new byte[1], new TensorShape(1, 1, 1, 1)), 8, 16) }, "block_q"),
            (new() { Bias = new Bias(new TensorView(64, DType.Float32, Device.Cuda(0), new TensorShape(1, 1, 1, LengthKv))) }, "options.Bias.Values"),
        ];
        Assert.Multiple(() =>
        {
            foreach ((AttentionOptions options, string part) in wrong)
            {
                Assert.That(() => p.Forward(options), Throws.Exception.With.Message.Contains(part));
            }
        });
        Assert.That(() => Attention.Merge([], default), Throws.ArgumentException.With.Message.Contains("parts"));
    }

    /// <summary>A plan for a GPU that is not here names the variant that it does not compute, or is one.</summary>
    [TestCaseSource(nameof(Cases))]
    public void PlansCoverTheOptions(AttentionOptions options)
    {
        AttentionProblem problem = new()
        {
            DType = DType.Float16,
            Batch = Batch,
            LengthQ = LengthQ,
            LengthKv = LengthKv,
            HeadsQ = HeadsQ,
            HeadsKv = HeadsKv,
            HeadDim = HeadDim,
            HeadDimV = HeadDimV,
            Options = options,
        };
        Assert.That(Attention.TryPlan(problem, out AttentionPlan? plan, out _), Is.True);
        Assert.That(plan!.Kernel, Is.EqualTo(KernelFamily.Cpu));
        bool onGpu = Attention.TryPlan(problem with { Device = Device.Cuda(0), AssumedComputeCapability = 90 }, out plan, out string? reason);
        Assert.That(onGpu ? plan!.KernelName : reason, Is.Not.Empty);
    }

    [Test]
    public void MergedPartsAreTheWhole()
    {
        Problem whole = new(Batch, LengthQ, LengthKv);
        whole.Forward(AttentionOptions.Default);
        AttentionPart[] parts = [.. new[] { 10, 17 }.Select((keys, n) => whole.PartOf(n == 0 ? 0 : 10, keys))];
        Tensor<float> o = Tensor.CreateFromShape<float>(whole.O.Lengths);
        float[] lse = new float[whole.Lse.Length];
        Attention.Merge(parts, new AttentionPart(o, lse));
        Assert.That(ReferenceAttention.MaxAbsoluteError<float>(o, [.. whole.O.Select(x => (double)x)]), Is.LessThan(1e-5));
        Assert.That(lse, Is.EqualTo(whole.Lse).Within(1e-5f));

        Tensor<float> gradO = Random(31, Batch, LengthQ, HeadsQ, HeadDimV);
        AttentionPart[] gradients = [.. parts.Select(_ => new AttentionPart(Tensor.CreateFromShape<float>(o.Lengths), new float[lse.Length]))];
        Attention.MergeBackward(parts, new AttentionPart(o, lse), gradO, null, gradients);
        float[] exact = new float[gradients.Length];
        Assert.That(() => Attention.MergeBackward(parts, new AttentionPart(o, lse), gradO, exact, gradients),
            Throws.ArgumentException.With.Message.Contains("gradLse"));
        Assert.That(() => Attention.MergeBackward(parts, new AttentionPart(o, lse), gradO, null, gradients.AsSpan(1)),
            Throws.ArgumentException.With.Message.Contains("gradients"));
    }

    [Test]
    public void TheDropoutMaskIsThatOfTheReference()
    {
        Dropout dropout = new(0.4f, 5, 6);
        Tensor<bool> kept = Tensor.CreateFromShape<bool>([2, 3, 5, 9]);
        Attention.DropoutMask(dropout, kept);
        bool[] flat = [.. kept];
        for (int n = 0; n < flat.Length; n++)
        {
            Assert.That(flat[n], Is.EqualTo(Philox.Keeps(dropout, (uint)(n / 45), (uint)(n / 9 % 5), (uint)(n % 9))), $"element {n}");
        }
    }

    /// <summary>In steady state a call allocates nothing, whatever its options.</summary>
    [Test]
    public void CallsDoNotAllocate()
    {
        AttentionOptions options = (AttentionOptions)Cases().Last().Arguments[0]!;
        Problem p = new(Batch, LengthQ, LengthKv);
        ModifierGradients gradients = p.GradientsFor(options);
        for (int i = 0; i < 50; i++)
        {
            p.Forward(options);
            p.Backward(options, gradients);
        }

        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 20; i++)
        {
            p.Forward(options);
            p.Backward(options, gradients);
        }

        Assert.That(GC.GetAllocatedBytesForCurrentThread() - before, Is.Zero);
    }

    private static TestCaseData Named(string name, AttentionOptions options) => new TestCaseData(options).SetArgDisplayNames(name);

    private static float[] Floats(int count, int seed)
    {
        var random = new GaussianSource(seed);
        return [.. Enumerable.Range(0, count).Select(_ => (float)random.Next())];
    }

    private static bool[] Bools(int count, int seed)
    {
        var random = new GaussianSource(seed);
        return [.. Enumerable.Range(0, count).Select(_ => random.NextUniform() < 0.8)];
    }

    private static Tensor<float> Random(int seed, params nint[] sizes) => Tensor.Create(Floats((int)sizes.Aggregate((a, b) => a * b), seed), sizes);

    /// <summary>fp32 tensors of the facade, and both passes on them.</summary>
    private sealed class Problem(int batch, int lengthQ, int lengthKv)
    {
        private readonly Tensor<float> q = Random(21, batch, lengthQ, HeadsQ, HeadDim);
        private readonly Tensor<float> k = Random(22, batch, lengthKv, HeadsKv, HeadDim);
        private readonly Tensor<float> v = Random(23, batch, lengthKv, HeadsKv, HeadDimV);
        private readonly Tensor<float> gradO = Random(24, batch, lengthQ, HeadsQ, HeadDimV);
        private readonly float[] gradLse = Floats(batch * HeadsQ * lengthQ, 25);
        private readonly Tensor<float> gradQ = Tensor.CreateFromShape<float>([batch, lengthQ, HeadsQ, HeadDim]);
        private readonly Tensor<float> gradK = Tensor.CreateFromShape<float>([batch, lengthKv, HeadsKv, HeadDim]);
        private readonly Tensor<float> gradV = Tensor.CreateFromShape<float>([batch, lengthKv, HeadsKv, HeadDimV]);
        private float[] gradBias = [];
        private float[] gradSinks = [];

        public Tensor<float> O { get; } = Tensor.CreateFromShape<float>([batch, lengthQ, HeadsQ, HeadDimV]);

        public float[] Lse { get; } = new float[batch * HeadsQ * lengthQ];

        public void Forward(AttentionOptions options) => Attention.Forward<float>(q, k, v, O, Lse, options);

        public void Backward(AttentionOptions options, ModifierGradients gradients) =>
            Attention.Backward<float>(q, k, v, O, gradO, Lse, gradQ, gradK, gradV, gradLse, gradients, options);

        public ModifierGradients GradientsFor(AttentionOptions options)
        {
            gradBias = new float[options.Bias?.Values.Sizes.ElementCount ?? 0];
            gradSinks = new float[options.Sinks is null ? 0 : HeadsQ];
            return new ModifierGradients
            {
                Bias = options.Bias is null ? null : AttentionTensor.From<float>(gradBias, options.Bias.Values.Sizes),
                Sinks = options.Sinks is null ? null : (AttentionVector<float>)gradSinks,
            };
        }

        public void RunOnHost(AttentionOptions options)
        {
            Forward(options);
            Backward(options, GradientsFor(options));
        }

        /// <summary>What attention over a part of the keys gives.</summary>
        public AttentionPart PartOf(int firstKey, int keys)
        {
            Tensor<float> o = Tensor.CreateFromShape<float>(O.Lengths);
            float[] lse = new float[Lse.Length];
            NRange range = firstKey..(firstKey + keys);
            ReadOnlyTensorSpan<float> partK = k.AsReadOnlyTensorSpan(NRange.All, range, NRange.All, NRange.All);
            ReadOnlyTensorSpan<float> partV = v.AsReadOnlyTensorSpan(NRange.All, range, NRange.All, NRange.All);
            Attention.Forward<float>(q, partK, partV, o, lse, AttentionOptions.Default);
            return new AttentionPart(o, lse);
        }

        /// <summary>The field's rule, with two fp32 roundings of the largest number.</summary>
        public void AssertMatchesReference(AttentionOptions options)
        {
            ReferenceOutput exact = ReferenceAttention.Forward<float>(q, k, v, options);
            ReferenceOutput naive = ReferenceAttention.Naive<float>(q, k, v, options);
            ReferenceGradients gradients = ReferenceAttention.Backward<float>(q, k, v, gradO, gradLse, options);
            ReferenceGradients naiveGradients = ReferenceAttention.NaiveBackward<float>(q, k, v, gradO, gradLse, options);
            Assert.Multiple(() =>
            {
                AssertNear("o", O, exact.O, naive.O);
                AssertNear("lse", Lse, exact.Lse, naive.Lse);
                AssertNear("grad q", gradQ, gradients.Q, naiveGradients.Q);
                AssertNear("grad k", gradK, gradients.K, naiveGradients.K);
                AssertNear("grad v", gradV, gradients.V, naiveGradients.V);
                AssertNear("grad bias", gradBias, gradients.Bias, naiveGradients.Bias);
                AssertNear("grad sinks", gradSinks, gradients.Sinks, naiveGradients.Sinks);
            });
        }

        private static void AssertNear(string name, IEnumerable<float> actual, double[] exact, double[] naive)
        {
            static double Distance(double a, double b) => a.Equals(b) ? 0 : Math.Abs(a - b);
            double[] values = [.. actual.Select(x => (double)x)];
            Assert.That(values, Has.Length.EqualTo(exact.Length), name);
            double error = values.Zip(exact, Distance).DefaultIfEmpty(0).Max();
            double naiveError = naive.Zip(exact, Distance).DefaultIfEmpty(0).Max();
            double largest = exact.Where(double.IsFinite).Select(Math.Abs).DefaultIfEmpty(0).Max();
            Assert.That(values.Any(double.IsNaN), Is.False, name);
            Assert.That(error, Is.LessThanOrEqualTo(2 * naiveError + 8 * largest * Math.Pow(2, -23)), name);
        }
    }
}
