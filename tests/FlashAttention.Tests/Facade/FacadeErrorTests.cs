using System.Numerics.Tensors;

namespace FlashAttention.Tests;

/// <summary>Exceptions of the facade: their types, their messages, and what a disposed object does.</summary>
[TestFixture]
public sealed class FacadeErrorTests
{
    private static readonly Tensor<float> Q = Tensor.CreateFromShape<float>([1, 4, 2, 8]);

    [Test]
    public void WhatOnlyManagedCodeSees()
    {
        Tensor<float> rank3 = Tensor.CreateFromShape<float>([4, 2, 8]);
        Assert.Multiple(() =>
        {
            Assert.That(() => Attention.Forward<float>(Q, rank3, Q, New()), Throws.ArgumentException.With.Message.Contains("k").And.Message.Contains("rank 3"));
            Assert.That(() => Attention.Forward<float>(Q, Q, Q, New(), new float[7], AttentionOptions.Default),
                Throws.ArgumentException.With.Message.Contains("lse").And.Message.Contains("8").And.Message.Contains("7"));
            Assert.That(() => Attention.Forward<float>(Q, Q, Q, New(), null!), Throws.ArgumentNullException);
            Assert.That(() => Attention.Forward<float>(Q, Q, Q, New(), new AttentionOptions { Scale = 0 }),
                Throws.ArgumentException.With.Message.Contains("Scale"));
            Assert.That(() => Attention.Forward<float>(Q, Q, Q, New(), new AttentionOptions { Scale = float.NaN }), Throws.ArgumentException);
            Assert.That(() => Mask.Causal((Alignment)9), Throws.InstanceOf<ArgumentOutOfRangeException>());
            Tensor<double> doubles = Tensor.CreateFromShape<double>([1, 4, 2, 8]);
            Assert.That(() => Attention.Forward(doubles, doubles, doubles), Throws.InstanceOf<NotSupportedException>().With.Message.Contains("Double"));
        });
    }

    [Test]
    public void WhatNativeCodeSeesCarriesItsMessage()
    {
        FlashAttentionException mismatch = Throw(() => Attention.Forward<float>(Q, Tensor.CreateFromShape<float>([1, 4, 2, 16]), Q, New()));
        FlashAttentionException heads = Throw(() => Attention.Forward<float>(Q, Wide(3), Wide(3), New()));
        FlashAttentionException unsupported = Throw(() => Attention.Forward<float>(Q, Q, Q, New(), new AttentionOptions { Kernel = KernelFamily.Sm90 }));
        FlashAttentionException overlap = Throw(() => Attention.Forward<float>(Q, Q, Q, Q));
        Assert.Multiple(() =>
        {
            Assert.That(mismatch.Status, Is.EqualTo(AttentionStatus.InvalidArgument));
            Assert.That(mismatch.Message, Does.Contain("k.sizes[3]").And.Contain("16"));
            Assert.That(heads.Message, Does.Contain("multiple"));
            Assert.That(unsupported.Status, Is.EqualTo(AttentionStatus.Unsupported));
            Assert.That(overlap.Message, Does.Contain("overlap"));
        });
    }

    [Test]
    public void DevicesThatDoNotExist()
    {
        FlashAttentionException absent = Throw(() => DeviceTensor.Allocate<Half>(Device.Cuda(99), new TensorShape(1, 1, 1, 8)));
        FlashAttentionException wrong = Throw(() => new Device(DeviceType.Cpu, 3).GetInfo());
        Assert.Multiple(() =>
        {
            Assert.That(absent.Status, Is.EqualTo(AttentionStatus.DeviceUnavailable));
            Assert.That(wrong.Status, Is.EqualTo(AttentionStatus.InvalidArgument));
            Assert.That(Device.Count(DeviceType.Cpu), Is.EqualTo(1));
            Assert.That(Device.Cpu.GetInfo().Name, Is.Not.Empty);
        });
    }

    [Test]
    public void DisposedObjectsSaySo()
    {
        DeviceTensor<float> tensor = DeviceTensor.Allocate<float>(Device.Cpu, new TensorShape(1, 4, 2, 8));
        DeviceTensor<float> live = DeviceTensor.Allocate<float>(Device.Cpu, new TensorShape(1, 4, 2, 8));
        DeviceTensor<float> output = DeviceTensor.Allocate<float>(Device.Cpu, new TensorShape(1, 4, 2, 8));
        DeviceStream stream = DeviceStream.Create(Device.Cpu);
        DeviceEvent done = DeviceEvent.Create(Device.Cpu);
        var workspace = new Workspace(Device.Cpu);
        TensorView stale = tensor;
        tensor.Dispose();
        tensor.Dispose();
        Assert.Multiple(() =>
        {
            Assert.That(() => tensor.Pointer, Throws.InstanceOf<ObjectDisposedException>());
            Assert.That(() => tensor.ToArray(), Throws.InstanceOf<ObjectDisposedException>());
            Assert.That(() => Attention.Forward(stale, live, live, output, LseView.None, AttentionOptions.Default, workspace, null),
                Throws.InstanceOf<ObjectDisposedException>(), "a view made before its tensor was disposed");
        });
        done.Dispose();
        workspace.Dispose();
        workspace.Dispose();
        Assert.Multiple(() =>
        {
            Assert.That(() => done.Record(stream), Throws.InstanceOf<ObjectDisposedException>());
            Assert.That(() => workspace.Reserve(10), Throws.InstanceOf<ObjectDisposedException>());
            Assert.That(() => Attention.Forward(live, live, live, output, LseView.None, AttentionOptions.Default, workspace, stream),
                Throws.InstanceOf<ObjectDisposedException>());
        });
        stream.Dispose();
        Assert.That(() => stream.Synchronize(), Throws.InstanceOf<ObjectDisposedException>());
        live.Dispose();
        output.Dispose();
    }

    [Test]
    public void PlansAreDescribedOrRefused()
    {
        var problem = new AttentionProblem { DType = DType.Float16, Batch = 1, LengthQ = 128, LengthKv = 256, HeadsQ = 8, HeadsKv = 2, HeadDim = 64 };
        AttentionPlan plan = Attention.Describe(problem);
        bool hopper = Attention.TryPlan(problem with { Device = Device.Cuda(0), AssumedComputeCapability = 90 }, out AttentionPlan? onHopper, out string? none);
        AttentionProblem impossible = problem with { Device = Device.Cuda(0), AssumedComputeCapability = 80, DType = DType.Float32 };
        bool refused = Attention.TryPlan(impossible, out AttentionPlan? no, out string? why);
        Assert.Multiple(() =>
        {
            Assert.That(plan.Kernel, Is.EqualTo(KernelFamily.Cpu));
            Assert.That(plan.Flops, Is.EqualTo(4.0 * 8 * 128 * 256 * 64));
            Assert.That(hopper && onHopper is not null && none is null, Is.True);
            Assert.That(onHopper?.Kernel, Is.AnyOf(KernelFamily.Sm80, KernelFamily.Sm90));
            Assert.That(refused || no is not null, Is.False);
            Assert.That(why, Does.Contain("float32"));
            Assert.That(() => Attention.TryPlan(problem with { LengthQ = -1 }, out _, out _), Throws.InstanceOf<FlashAttentionException>());
        });
    }

    [Test]
    public void OptionsAndMasksCompareByValue()
    {
        var a = new AttentionOptions { Mask = Mask.Causal(Alignment.TopLeft), Scale = 0.5f };
        Assert.Multiple(() =>
        {
            Assert.That(a, Is.EqualTo(new AttentionOptions { Mask = Mask.Causal(Alignment.TopLeft), Scale = 0.5f }));
            Assert.That(a, Is.Not.EqualTo(a with { Mask = Mask.Causal(Alignment.BottomRight) }));
            Assert.That(AttentionOptions.Default, Is.EqualTo(new AttentionOptions()));
            Assert.That(Mask.None, Is.Not.EqualTo(Mask.Causal(Alignment.TopLeft)));
        });
    }

    private static Tensor<float> New() => Tensor.CreateFromShape<float>([1, 4, 2, 8]);

    private static Tensor<float> Wide(int heads) => Tensor.CreateFromShape<float>([1, 4, heads, 8]);

    private static FlashAttentionException Throw(Action call) => Assert.Throws<FlashAttentionException>(call)!;
}
