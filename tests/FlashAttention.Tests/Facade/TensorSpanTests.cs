using System.Numerics.Tensors;

namespace FlashAttention.Tests;

/// <summary>The host overloads of the facade: every element type, dense and strided spans, all overloads.</summary>
[TestFixture(typeof(float))]
[TestFixture(typeof(Half))]
[TestFixture(typeof(BFloat16))]
public sealed class TensorSpanTests<T>
    where T : unmanaged
{
    private static ProblemCase Case => new()
    {
        Format = typeof(T) == typeof(float) ? ElementFormat.Float32 : typeof(T) == typeof(Half) ? ElementFormat.Float16 : ElementFormat.BFloat16,
        Batch = 2,
        HeadsQ = 4,
        HeadsKv = 2,
        LenQ = 37,
        LenKv = 53,
        HeadDim = 40,
        HeadDimV = 24,
        Seed = 51,
    };

    [Test]
    public void ForwardAndBackward([Values] MaskKind mask, [Values] bool gradLse)
    {
        var host = new HostProblem<T>(Case with { Mask = mask, GradLse = gradLse, Scale = gradLse ? 0.2f : 0 });
        Attention.Forward<T>(host.Q, host.K, host.V, host.O, host.Lse, host.Options);
        if (gradLse)
        {
            Attention.Backward<T>(host.Q, host.K, host.V, host.O, host.GradO, host.Lse, host.GradQ, host.GradK, host.GradV, host.GradLse, host.Options);
        }
        else
        {
            Attention.Backward<T>(host.Q, host.K, host.V, host.O, host.GradO, host.Lse, host.GradQ, host.GradK, host.GradV, host.Options);
        }
        host.AssertForwardAndBackward();
    }

    [Test]
    public void ShortOverloadsMeanTheDefaults()
    {
        var host = new HostProblem<T>(Case);
        Attention.Forward<T>(host.Q, host.K, host.V, host.O, host.Lse, AttentionOptions.Default);
        T[] expected = HostProblem<T>.Flat(host.O);
        Tensor<T> again = Tensor.CreateFromShape<T>(host.O.Lengths);
        Attention.Forward<T>(host.Q, host.K, host.V, again);
        Assert.That(HostProblem<T>.Flat(again), Is.EqualTo(expected));
        Attention.Forward<T>(host.Q, host.K, host.V, again, AttentionOptions.Default);
        Assert.That(HostProblem<T>.Flat(again), Is.EqualTo(expected));
        Assert.That(HostProblem<T>.Flat(Attention.Forward(host.Q, host.K, host.V)), Is.EqualTo(expected));
        Attention.Backward<T>(host.Q, host.K, host.V, host.O, host.GradO, host.Lse, host.GradQ, host.GradK, host.GradV);
        host.AssertForwardAndBackward();
    }

    /// <summary>Spans with room between heads, rows and batches: input slices of a packed buffer, output between untouched elements.</summary>
    [Test]
    public void StridedSpans()
    {
        var host = new HostProblem<T>(Case with { Mask = MaskKind.BottomRight });
        Attention.Forward<T>(host.Q, host.K, host.V, host.O, host.Lse, host.Options);
        T[] expected = HostProblem<T>.Flat(host.O);

        Strided q = Strided.CopyOf(host.Q, room: 3);
        Strided k = Strided.CopyOf(host.K, room: 5);
        Strided v = Strided.CopyOf(host.V, room: 1);
        Strided o = Strided.CopyOf(Tensor.CreateFromShape<T>(host.O.Lengths), room: 7);
        var lse = new float[host.Lse.Length];
        Attention.Forward<T>(q.Span, k.Span, v.Span, o.Span, lse, host.Options);
        Assert.Multiple(() =>
        {
            Assert.That(o.Gather(), Is.EqualTo(expected));
            Assert.That(lse, Is.EqualTo(host.Lse));
            Assert.That(o.RoomIsUntouched(), "elements between the rows");
        });
    }

    /// <summary>The shipped oracle against the tests' own.</summary>
    [Test]
    public void ReferenceAttentionIsExact([Values] MaskKind mask)
    {
        var host = new HostProblem<T>(Case with { Mask = mask, GradLse = true, LenQ = 60 });
        ReferenceOutput forward = ReferenceAttention.Forward<T>(host.Q, host.K, host.V, host.Options);
        ReferenceGradients backward = ReferenceAttention.Backward<T>(host.Q, host.K, host.V, host.GradO, host.GradLse, host.Options);
        AttentionResult exact = host.Oracle.Exact;
        Assert.Multiple(() =>
        {
            Assert.That(HostProblem<T>.ToHeadMajor(forward.O, host.Problem.SizesO), Is.EqualTo(exact.O).Within(1e-12));
            Assert.That(forward.Lse, Is.EqualTo(exact.Lse).Within(1e-12));
            Assert.That(HostProblem<T>.ToHeadMajor(backward.Q, host.Problem.SizesQ), Is.EqualTo(exact.GradQ).Within(1e-11));
            Assert.That(HostProblem<T>.ToHeadMajor(backward.K, host.Problem.SizesK), Is.EqualTo(exact.GradK).Within(1e-11));
            Assert.That(HostProblem<T>.ToHeadMajor(backward.V, host.Problem.SizesV), Is.EqualTo(exact.GradV).Within(1e-11));
        });
    }

    /// <summary>Its naive form is near the exact one, and off by roundings of the type.</summary>
    [Test]
    public void ReferenceNaiveIsNaive()
    {
        var host = new HostProblem<T>(Case);
        ReferenceOutput exact = ReferenceAttention.Forward<T>(host.Q, host.K, host.V, host.Options);
        ReferenceOutput naive = ReferenceAttention.Naive<T>(host.Q, host.K, host.V, host.Options);
        double error = exact.O.Zip(naive.O, (a, b) => Math.Abs(a - b)).Max();
        double unit = host.Problem.Format.UnitRoundoff;
        Assert.That(error, Is.InRange(unit * 0.05, unit * 100));
    }

    [Test]
    public void ManyThreadsGiveTheSameBits()
    {
        var host = new HostProblem<T>(Case with { Mask = MaskKind.TopLeft });
        Attention.Forward<T>(host.Q, host.K, host.V, host.O, host.Lse, host.Options);
        T[] expected = HostProblem<T>.Flat(host.O);
        Parallel.For(0, 64, new ParallelOptions { MaxDegreeOfParallelism = 8 }, _ =>
        {
            Tensor<T> o = Attention.Forward(host.Q, host.K, host.V, host.Options);
            Assert.That(HostProblem<T>.Flat(o), Is.EqualTo(expected));
        });
    }

    [Test]
    public void ACallAllocatesNothing()
    {
        var host = new HostProblem<T>(Case);
        AttentionOptions options = host.Options;
        void Call()
        {
            Attention.Forward<T>(host.Q, host.K, host.V, host.O, host.Lse, options);
            Attention.Backward<T>(host.Q, host.K, host.V, host.O, host.GradO, host.Lse, host.GradQ, host.GradK, host.GradV, options);
        }
        // Warm-up: the workspace grows, the JIT reaches its last tier.
        for (int i = 0; i < 200; i++)
        {
            Call();
        }
        Thread.Sleep(200);
        Call();
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 50; i++)
        {
            Call();
        }
        Assert.That(GC.GetAllocatedBytesForCurrentThread() - before, Is.Zero, "bytes allocated by 50 forward and backward calls");
    }

    /// <summary>A tensor in an array with unused elements around its rows.</summary>
    private sealed class Strided
    {
        private readonly T[] memory;
        private readonly nint[] lengths;
        private readonly nint[] strides;

        private Strided(T[] memory, nint[] lengths, nint[] strides)
        {
            this.memory = memory;
            this.lengths = lengths;
            this.strides = strides;
        }

        public TensorSpan<T> Span => new(memory, lengths, strides);

        public static Strided CopyOf(Tensor<T> tensor, int room)
        {
            nint[] lengths = tensor.Lengths.ToArray();
            nint head = lengths[3] + room;
            nint row = lengths[2] * head + room;
            nint[] strides = [lengths[1] * row + room, row, head, 1];
            var strided = new Strided(new T[lengths[0] * strides[0]], lengths, strides);
            Array.Fill(strided.memory, HostProblem<T>.FromDouble(-77));
            T[] flat = HostProblem<T>.Flat(tensor);
            int at = 0;
            foreach (nint index in strided.Indices())
            {
                strided.memory[index] = flat[at++];
            }
            return strided;
        }

        public T[] Gather() => Indices().Select(index => memory[index]).ToArray();

        public bool RoomIsUntouched()
        {
            HashSet<nint> used = [.. Indices()];
            T untouched = HostProblem<T>.FromDouble(-77);
            return Enumerable.Range(0, memory.Length).Where(index => !used.Contains(index)).All(index => memory[index].Equals(untouched));
        }

        private IEnumerable<nint> Indices()
        {
            for (nint b = 0; b < lengths[0]; b++)
            {
                for (nint s = 0; s < lengths[1]; s++)
                {
                    for (nint h = 0; h < lengths[2]; h++)
                    {
                        for (nint c = 0; c < lengths[3]; c++)
                        {
                            yield return b * strides[0] + s * strides[1] + h * strides[2] + c;
                        }
                    }
                }
            }
        }
    }
}
