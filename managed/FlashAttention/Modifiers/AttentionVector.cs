namespace FlashAttention;

/// <summary>Contiguous numbers that options refer to: an array, host memory or memory on a device. It owns nothing and keeps arrays and
/// <see cref="DeviceArray{T}"/> from being collected.</summary>
/// <typeparam name="T">float (slopes, sinks, lse) or int (lengths).</typeparam>
/// <remarks>Immutable and thread-safe; the contents are the caller's to order. Making one allocates, using it does not. Host memory serves calls on the CPU
/// only.</remarks>
public sealed class AttentionVector<T>
    where T : unmanaged
{
    private readonly Memory<T> _memory;
    private readonly DeviceArray<T>? _array;
    private readonly DeviceTensor<T>? _tensor;
    private readonly nint _data;

    private AttentionVector(Device device, long length) => (Device, Length) = (device, length);

    private AttentionVector(Memory<T> memory)
        : this(Device.Cpu, memory.Length)
    {
        _memory = memory;
        IsHostMemory = true;
    }

    private AttentionVector(DeviceArray<T> array)
        : this(array.Device, array.Length) => _array = array;

    private AttentionVector(DeviceTensor<T> tensor)
        : this(tensor.Device, tensor.Length) => _tensor = tensor;

    private AttentionVector(Device device, nint data, long length)
        : this(device, length) => _data = data;

    /// <summary>Where the memory is; the CPU for host memory.</summary>
    public Device Device { get; }

    /// <summary>Number of elements.</summary>
    public long Length { get; }

    private bool IsHostMemory { get; }

    /// <summary>An array.</summary>
    /// <param name="array">Array.</param>
    public static implicit operator AttentionVector<T>(T[] array)
    {
        ArgumentNullException.ThrowIfNull(array);
        return new AttentionVector<T>(array.AsMemory());
    }

    /// <summary>Host memory.</summary>
    /// <param name="memory">Memory.</param>
    public static implicit operator AttentionVector<T>(Memory<T> memory) => new(memory);

    /// <summary>An array on a device.</summary>
    /// <param name="array">Array.</param>
    public static implicit operator AttentionVector<T>(DeviceArray<T> array)
    {
        ArgumentNullException.ThrowIfNull(array);
        return new AttentionVector<T>(array);
    }

    /// <summary>A tensor on a device, as its elements lie in memory.</summary>
    /// <param name="tensor">Tensor.</param>
    public static implicit operator AttentionVector<T>(DeviceTensor<T> tensor)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        return new AttentionVector<T>(tensor);
    }

    /// <summary>Memory of any origin.</summary>
    /// <param name="device">Where it is.</param>
    /// <param name="data">Address, aligned to the element size.</param>
    /// <param name="length">Number of elements, at least 0.</param>
    /// <returns>A view that owns nothing.</returns>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="length"/> is negative.</exception>
    public static AttentionVector<T> FromPointer(Device device, nint data, long length)
    {
        Ensure.NotNegative(length, nameof(length));
        return new AttentionVector<T>(device, data, length);
    }

    /// <summary>Element type, length and device.</summary>
    /// <returns>Text.</returns>
    public override string ToString() => $"{typeof(T).Name}[{Length}] on {Device}";

    /// <summary>Keeps the memory in its place and alive until the loan is disposed.</summary>
    internal MemoryLoan Borrow(string name) =>
        IsHostMemory ? MemoryLoan.Pinned(_memory.Pin())
        : _array is not null ? MemoryLoan.Of(_array.Pointer, _array.Memory, name)
        : _tensor is not null ? MemoryLoan.Of(_tensor.Pointer, _tensor.Memory, name)
        : MemoryLoan.Of(_data, null, name);

    /// <summary>The numbers, for the reference implementation.</summary>
    internal ReadOnlySpan<T> HostSpan(string name) =>
        IsHostMemory ? _memory.Span : throw new ArgumentException($"{name}: expected an array or host memory, got {this}.", "options");
}
