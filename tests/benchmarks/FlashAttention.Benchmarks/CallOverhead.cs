using System.Numerics.Tensors;
using BenchmarkDotNet.Attributes;

namespace FlashAttention.Benchmarks;

/// <summary>Calls on a problem so small (one query, one key, one head, head_dim 8) that what is measured is the call and not the computation.</summary>
[MemoryDiagnoser]
public class CallOverhead : IDisposable
{
    private static readonly nint[] Sizes = [1, 1, 1, 8];
    private static readonly TensorShape Shape = new(1, 1, 1, 8);

    private readonly Half[] _q = new Half[8];
    private readonly Half[] _k = new Half[8];
    private readonly Half[] _v = new Half[8];
    private readonly Half[] _o = new Half[8];
    private readonly Half[] _gradO = new Half[8];
    private readonly Half[] _gradQ = new Half[8];
    private readonly Half[] _gradK = new Half[8];
    private readonly Half[] _gradV = new Half[8];
    private readonly float[] _lse = new float[1];
    private readonly AttentionOptions _causal = new() { Mask = Mask.Causal(Alignment.BottomRight), Deterministic = true };

    private DeviceTensor<Half>? _deviceTensor;
    private DeviceTensor<Half>? _deviceO;
    private DeviceTensor<Half>? _deviceGradQ;
    private DeviceTensor<Half>? _deviceGradK;
    private DeviceTensor<Half>? _deviceGradV;
    private DeviceTensor<float>? _deviceLse;
    private DeviceStream? _stream;
    private Workspace? _workspace;

    /// <summary>Threads would add their own start-up to each call.</summary>
    [GlobalSetup]
    public void Setup()
    {
        FlashAttentionNative.CpuThreadCount = 1;
        _deviceTensor = DeviceTensor.From<Half>(Device.Cpu, Shape, _q);
        _deviceO = DeviceTensor.Allocate<Half>(Device.Cpu, Shape);
        _deviceGradQ = DeviceTensor.Allocate<Half>(Device.Cpu, Shape);
        _deviceGradK = DeviceTensor.Allocate<Half>(Device.Cpu, Shape);
        _deviceGradV = DeviceTensor.Allocate<Half>(Device.Cpu, Shape);
        _deviceLse = DeviceTensor.Allocate<float>(Device.Cpu, new TensorShape(1, 1, 1, 1));
        _stream = DeviceStream.Create(Device.Cpu);
        _workspace = new Workspace(Device.Cpu);
        HostForward();
        DeviceForward();
    }

    /// <summary>Forward on host spans.</summary>
    [Benchmark]
    public void HostForward() => Attention.Forward(Read(_q), Read(_k), Read(_v), Write(_o), _lse, _causal);

    /// <summary>Backward on host spans.</summary>
    [Benchmark]
    public void HostBackward() => Attention.Backward(
        Read(_q), Read(_k), Read(_v), Read(_o), Read(_gradO), _lse, Write(_gradQ), Write(_gradK), Write(_gradV), _causal);

    /// <summary>Forward on device tensors of the CPU device.</summary>
    [Benchmark]
    public void DeviceForward() => Attention.Forward(
        _deviceTensor!, _deviceTensor!, _deviceTensor!, _deviceO!, _deviceLse, _causal, _workspace!, _stream);

    /// <summary>Backward on device tensors of the CPU device.</summary>
    [Benchmark]
    public void DeviceBackward() => Attention.Backward(
        _deviceTensor!,
        _deviceTensor!,
        _deviceTensor!,
        _deviceO!,
        _deviceTensor!,
        _deviceLse,
        _deviceGradQ!,
        _deviceGradK!,
        _deviceGradV!,
        LseView.None,
        _causal,
        _workspace!,
        _stream);

    /// <inheritdoc/>
    public void Dispose()
    {
        _deviceTensor?.Dispose();
        _deviceO?.Dispose();
        _deviceGradQ?.Dispose();
        _deviceGradK?.Dispose();
        _deviceGradV?.Dispose();
        _deviceLse?.Dispose();
        _stream?.Dispose();
        _workspace?.Dispose();
        GC.SuppressFinalize(this);
    }

    private static ReadOnlyTensorSpan<Half> Read(Half[] data) => new(data, Sizes);

    private static TensorSpan<Half> Write(Half[] data) => new(data, Sizes);
}
