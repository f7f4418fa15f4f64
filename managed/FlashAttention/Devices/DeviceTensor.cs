using System.Runtime.InteropServices;
using FlashAttention.Interop;

namespace FlashAttention;

/// <summary>Makes tensors on a device.</summary>
public static class DeviceTensor
{
    /// <summary>Allocates a tensor in the order (batch, sequence, heads, head_dim). Contents are undefined.</summary>
    /// <typeparam name="T">float, Half, BFloat16, or for masks byte or bool.</typeparam>
    /// <param name="device">Where the memory will be.</param>
    /// <param name="sizes">Sizes in elements, none negative.</param>
    /// <returns>A tensor to dispose.</returns>
    /// <inheritdoc cref="Allocate{T}(Device, TensorShape, TensorLayout)" path="/exception"/>
    public static DeviceTensor<T> Allocate<T>(Device device, TensorShape sizes)
        where T : unmanaged => Allocate<T>(device, sizes, TensorLayout.BatchSequenceHeads);

    /// <summary>Allocates a tensor. Contents are undefined.</summary>
    /// <typeparam name="T">float, Half, BFloat16, or for masks byte or bool.</typeparam>
    /// <param name="device">Where the memory will be.</param>
    /// <param name="sizes">Sizes in elements, none negative.</param>
    /// <param name="layout">Order in memory.</param>
    /// <returns>A tensor to dispose.</returns>
    /// <exception cref="ArgumentOutOfRangeException">A size is negative, or <paramref name="layout"/> is no defined value.</exception>
    /// <exception cref="NotSupportedException"><typeparamref name="T"/> is another type.</exception>
    /// <exception cref="OverflowException">The size in bytes does not fit 64 bits.</exception>
    /// <exception cref="FlashAttentionException">There is not enough memory, or no such device.</exception>
    public static DeviceTensor<T> Allocate<T>(Device device, TensorShape sizes, TensorLayout layout)
        where T : unmanaged => new(device, sizes, layout);

    /// <summary>Allocates a tensor in the order (batch, sequence, heads, head_dim) and copies host data into it; waits for the copy.</summary>
    /// <typeparam name="T">float, Half, BFloat16, or for masks byte or bool.</typeparam>
    /// <param name="device">Where the memory will be.</param>
    /// <param name="sizes">Sizes in elements, none negative.</param>
    /// <param name="source">As many elements as the tensor has, in its memory order.</param>
    /// <returns>A tensor to dispose.</returns>
    /// <exception cref="ArgumentException"><paramref name="source"/> has another length.</exception>
    /// <inheritdoc cref="Allocate{T}(Device, TensorShape, TensorLayout)" path="/exception"/>
    public static DeviceTensor<T> From<T>(Device device, TensorShape sizes, ReadOnlySpan<T> source)
        where T : unmanaged => From(device, sizes, TensorLayout.BatchSequenceHeads, source);

    /// <summary>Allocates a tensor and copies host data into it; waits for the copy.</summary>
    /// <typeparam name="T">float, Half, BFloat16, or for masks byte or bool.</typeparam>
    /// <param name="device">Where the memory will be.</param>
    /// <param name="sizes">Sizes in elements, none negative.</param>
    /// <param name="layout">Order in memory.</param>
    /// <param name="source">As many elements as the tensor has, in its memory order.</param>
    /// <returns>A tensor to dispose.</returns>
    /// <exception cref="ArgumentException"><paramref name="source"/> has another length.</exception>
    /// <inheritdoc cref="Allocate{T}(Device, TensorShape, TensorLayout)" path="/exception"/>
    public static DeviceTensor<T> From<T>(Device device, TensorShape sizes, TensorLayout layout, ReadOnlySpan<T> source)
        where T : unmanaged
    {
        Ensure.Exactly(source.Length, sizes.ElementCount, nameof(source));
        DeviceTensor<T> tensor = new(device, sizes, layout);
        try
        {
            tensor.CopyFrom(source);
            return tensor;
        }
        catch
        {
            tensor.Dispose();
            throw;
        }
    }
}

/// <summary>A tensor without gaps in memory of a device, which it owns.</summary>
/// <typeparam name="T">float, Half, BFloat16, or for masks byte or bool.</typeparam>
/// <remarks>Converts to <see cref="TensorView"/> wherever a call takes one. For CUDA, freeing waits for queued work that uses the device, so a tensor may be
/// disposed as soon as the calls that use it have returned. Reading members and copying are thread-safe; the contents are the caller's to order.</remarks>
public sealed unsafe class DeviceTensor<T> : IDisposable
    where T : unmanaged
{
    private readonly DeviceMemoryHandle _memory;

    internal DeviceTensor(Device device, TensorShape sizes, TensorLayout layout)
    {
        DType = StorageType<T>.DType;
        Ensure.NotNegative(sizes.Batch, "sizes.Batch");
        Ensure.NotNegative(sizes.Sequence, "sizes.Sequence");
        Ensure.NotNegative(sizes.Heads, "sizes.Heads");
        Ensure.NotNegative(sizes.HeadDim, "sizes.HeadDim");
        Device = device;
        Sizes = sizes;
        Layout = layout;
        Strides = sizes.GetStrides(layout);
        Length = sizes.ElementCount;
        SizeBytes = sizes.GetSizeBytes(sizeof(T));
        _memory = DeviceMemoryHandle.Allocate(device, SizeBytes);
    }

    /// <summary>Where the memory is.</summary>
    public Device Device { get; }

    /// <summary>Element type.</summary>
    public DType DType { get; }

    /// <summary>Sizes in elements.</summary>
    public TensorShape Sizes { get; }

    /// <summary>Strides in elements.</summary>
    public TensorStrides Strides { get; }

    /// <summary>Order in memory.</summary>
    public TensorLayout Layout { get; }

    /// <summary>Number of elements.</summary>
    public long Length { get; }

    /// <summary>Size of the memory in bytes.</summary>
    public long SizeBytes { get; }

    /// <summary>Address of the memory on its device; 0 if the tensor is empty. Valid until disposal: keep the tensor referenced while native code uses
    /// it.</summary>
    /// <exception cref="ObjectDisposedException">The tensor was disposed.</exception>
    public nint Pointer
    {
        get
        {
            ThrowIfDisposed();
            return _memory.Address;
        }
    }

    internal SafeHandle Memory => _memory;

    /// <summary>The tensor as an argument of a call. The view keeps the memory from being collected, but not from being disposed.</summary>
    /// <param name="tensor">Tensor.</param>
    /// <exception cref="ObjectDisposedException">The tensor was disposed.</exception>
    public static implicit operator TensorView(DeviceTensor<T> tensor)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        return tensor.AsView();
    }

    /// <summary>The tensor as what options refer to.</summary>
    /// <param name="tensor">Tensor.</param>
    /// <exception cref="ObjectDisposedException">The tensor was disposed.</exception>
    public static implicit operator AttentionTensor(DeviceTensor<T> tensor)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        return tensor.AsView();
    }

    /// <summary>The tensor as an argument of a call. The view keeps the memory from being collected, but not from being disposed.</summary>
    /// <returns>A view of the whole tensor.</returns>
    public TensorView AsView() => new(Pointer, DType, Device, Sizes, Strides, _memory);

    /// <summary>Copies from host memory on the default stream and waits. Work on other streams is not waited for.</summary>
    /// <param name="source">As many elements as the tensor has, in its memory order.</param>
    /// <exception cref="ArgumentException">Another length.</exception>
    /// <exception cref="FlashAttentionException">The copy, or earlier work on the default stream, failed.</exception>
    /// <exception cref="ObjectDisposedException">The tensor was disposed.</exception>
    public void CopyFrom(ReadOnlySpan<T> source)
    {
        CopyFromHost(source, null);
        Synchronize();
    }

    /// <summary>Queues a copy from host memory on a stream.</summary>
    /// <param name="source">As many elements as the tensor has, in its memory order. Memory of a <see cref="PinnedBuffer{T}"/> must stay alive and unchanged
    /// until the copy is done; any other memory may be reused when the call returns, since the driver has staged it by then.</param>
    /// <param name="stream">Stream of the tensor's device; null for the default stream.</param>
    /// <exception cref="ArgumentException">Another length, or a stream of another device.</exception>
    /// <exception cref="FlashAttentionException">The driver refused.</exception>
    /// <exception cref="ObjectDisposedException">The tensor or the stream was disposed.</exception>
    public void CopyFrom(ReadOnlySpan<T> source, DeviceStream? stream) => CopyFromHost(source, stream);

    /// <summary>Queues a copy from another tensor of the same layout, on any device.</summary>
    /// <param name="source">Tensor of the same sizes and layout.</param>
    /// <param name="stream">Stream of this tensor's device; null for the default stream.</param>
    /// <exception cref="ArgumentException">Other sizes or another layout, or a stream of another device.</exception>
    /// <exception cref="FlashAttentionException">The driver refused.</exception>
    /// <exception cref="ObjectDisposedException">A tensor or the stream was disposed.</exception>
    public void CopyFrom(DeviceTensor<T> source, DeviceStream? stream)
    {
        ArgumentNullException.ThrowIfNull(source);
        if (source.Sizes != Sizes || source.Layout != Layout)
        {
            throw new ArgumentException($"source: expected {Sizes} {Layout}, got {source.Sizes} {source.Layout}.", nameof(source));
        }

        source.ThrowIfDisposed();
        using HandleLoan sourceLoan = new(source._memory, nameof(source));
        Copy(Device, Pointer, source.Device, source._memory.Address, stream, Device);
    }

    /// <summary>Copies to host memory on the default stream and waits. Work on other streams is not waited for: synchronise it before.</summary>
    /// <param name="destination">As many elements as the tensor has, in its memory order.</param>
    /// <inheritdoc cref="CopyFrom(ReadOnlySpan{T})" path="/exception"/>
    public void CopyTo(Span<T> destination)
    {
        CopyToHost(destination, null);
        Synchronize();
    }

    /// <summary>Queues a copy to host memory on a stream.</summary>
    /// <param name="destination">As many elements as the tensor has, in its memory order. Memory of a <see cref="PinnedBuffer{T}"/> must stay alive, and holds
    /// the data once the stream has reached the copy; any other memory holds it when the call returns, since the driver waits then.</param>
    /// <param name="stream">Stream of the tensor's device; null for the default stream.</param>
    /// <inheritdoc cref="CopyFrom(ReadOnlySpan{T}, DeviceStream?)" path="/exception"/>
    public void CopyTo(Span<T> destination, DeviceStream? stream) => CopyToHost(destination, stream);

    /// <summary>Copies to a new array on the default stream and waits. Work on other streams is not waited for: synchronise it before.</summary>
    /// <returns>The elements in memory order.</returns>
    /// <exception cref="OverflowException">More elements than an array can hold.</exception>
    /// <exception cref="FlashAttentionException">The copy, or earlier work on the default stream, failed.</exception>
    /// <exception cref="ObjectDisposedException">The tensor was disposed.</exception>
    public T[] ToArray()
    {
        T[] result = new T[checked((int)Length)];
        CopyTo(result);
        return result;
    }

    /// <summary>Queues setting all bytes to a value on a stream.</summary>
    /// <param name="value">Byte; 0 makes every element zero.</param>
    /// <param name="stream">Stream of the tensor's device; null for the default stream.</param>
    /// <exception cref="ArgumentException">A stream of another device.</exception>
    /// <exception cref="FlashAttentionException">The driver refused.</exception>
    /// <exception cref="ObjectDisposedException">The tensor or the stream was disposed.</exception>
    public void Fill(byte value, DeviceStream? stream)
    {
        DeviceStream.Check(stream, Device, nameof(stream));
        ThrowIfDisposed();
        using HandleLoan loan = new(_memory, nameof(DeviceTensor));
        using HandleLoan streamLoan = DeviceStream.Lend(stream);
        NativeStatus.ThrowIfFailed(
            NativeMethods.fa_memory_set(Device.ToNative(), (void*)_memory.Address, value, (ulong)SizeBytes, DeviceStream.ValueOf(stream)));
    }

    /// <inheritdoc/>
    public void Dispose() => _memory.Dispose();

    /// <summary>Element type, sizes, layout and device.</summary>
    /// <returns>Text.</returns>
    public override string ToString() => $"{DType} {Sizes} {Layout} on {Device}";

    private void CopyFromHost(ReadOnlySpan<T> source, DeviceStream? stream)
    {
        Ensure.Exactly(source.Length, Length, nameof(source));
        fixed (T* host = source)
        {
            Copy(Device, Pointer, Device.Cpu, (nint)host, stream, Device);
        }
    }

    private void CopyToHost(Span<T> destination, DeviceStream? stream)
    {
        Ensure.Exactly(destination.Length, Length, nameof(destination));
        fixed (T* host = destination)
        {
            Copy(Device.Cpu, (nint)host, Device, Pointer, stream, Device);
        }
    }

    private void Copy(Device to, nint destination, Device from, nint source, DeviceStream? stream, Device streamDevice)
    {
        DeviceStream.Check(stream, streamDevice, nameof(stream));
        using HandleLoan loan = new(_memory, nameof(DeviceTensor));
        using HandleLoan streamLoan = DeviceStream.Lend(stream);
        NativeStatus.ThrowIfFailed(NativeMethods.fa_memory_copy(
            to.ToNative(), (void*)destination, from.ToNative(), (void*)source, (ulong)SizeBytes, DeviceStream.ValueOf(stream)));
    }

    private void Synchronize() => NativeStatus.ThrowIfFailed(NativeMethods.fa_stream_synchronize(Device.ToNative(), 0));

    private void ThrowIfDisposed() => ObjectDisposedException.ThrowIf(_memory.IsClosed, this);
}
