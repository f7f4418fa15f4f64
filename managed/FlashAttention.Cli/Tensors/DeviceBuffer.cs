namespace FlashAttention.Cli.Tensors;

/// <summary>The counterpart of a host tensor on a device: on the CPU the host memory itself, on a GPU memory of its own.</summary>
internal sealed unsafe class DeviceBuffer : IDisposable
{
    private readonly IDisposable? _memory;
    private readonly Action? _upload;
    private readonly Action? _download;

    private DeviceBuffer(TensorView view, IDisposable? memory = null, Action? upload = null, Action? download = null)
    {
        View = view;
        _memory = memory;
        _upload = upload;
        _download = download;
    }

    public TensorView View { get; }

    /// <summary>Makes the counterpart; a GPU's memory is undefined until <see cref="Upload"/>.</summary>
    public static DeviceBuffer Create(Device device, HostTensor host) => device.Type == DeviceType.Cpu ? new DeviceBuffer(host.View()) : host.Type switch
    {
        DType.Float32 => Typed<float>(device, host),
        DType.Float16 => Typed<Half>(device, host),
        _ => Typed<BFloat16>(device, host),
    };

    /// <summary>Copies host to device and waits.</summary>
    public void Upload() => _upload?.Invoke();

    /// <summary>Copies device to host and waits, also for the work queued before.</summary>
    public void Download() => _download?.Invoke();

    public void Dispose() => _memory?.Dispose();

    private static DeviceBuffer Typed<T>(Device device, HostTensor host)
        where T : unmanaged
    {
        if (host.Shape.ElementCount > int.MaxValue)
        {
            throw CliException.Usage($"a tensor of {host.Shape.ElementCount} elements: the command line copies at most {int.MaxValue} to a GPU at once");
        }
        DeviceTensor<T> tensor = DeviceTensor.Allocate<T>(device, host.Shape, host.Layout);
        int count = (int)tensor.Length;
        return new DeviceBuffer(tensor.AsView(), tensor, () => tensor.CopyFrom(new ReadOnlySpan<T>(host.Data, count)),
            () => tensor.CopyTo(new Span<T>(host.Data, count)));
    }
}
