using System.Runtime.InteropServices;
using FlashAttention.Interop;

namespace FlashAttention;

/// <summary>Contiguous numbers in memory of a device, which it owns: slopes, sinks, lengths of sequences.</summary>
/// <typeparam name="T">float, int, byte or another unmanaged type.</typeparam>
/// <remarks>For CUDA, freeing waits for queued work that uses the device. Reading members and copying are thread-safe; the contents are the caller's to
/// order.</remarks>
public sealed unsafe class DeviceArray<T> : IDisposable
    where T : unmanaged
{
    private readonly DeviceMemoryHandle _memory;

    /// <summary>Allocates an array. Contents are undefined.</summary>
    /// <param name="device">Where the memory will be.</param>
    /// <param name="length">Number of elements, at least 0.</param>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="length"/> is negative.</exception>
    /// <exception cref="OverflowException">The size in bytes does not fit 64 bits.</exception>
    /// <exception cref="FlashAttentionException">There is not enough memory, or no such device.</exception>
    public DeviceArray(Device device, long length)
    {
        Ensure.NotNegative(length, nameof(length));
        Device = device;
        Length = length;
        SizeBytes = checked(length * sizeof(T));
        _memory = DeviceMemoryHandle.Allocate(device, SizeBytes);
    }

    /// <summary>Allocates an array and copies host data into it; waits for the copy.</summary>
    /// <param name="device">Where the memory will be.</param>
    /// <param name="source">Elements.</param>
    /// <exception cref="FlashAttentionException">There is not enough memory, no such device, or the copy failed.</exception>
    public DeviceArray(Device device, ReadOnlySpan<T> source)
        : this(device, source.Length)
    {
        try
        {
            CopyFrom(source, null);
            NativeStatus.ThrowIfFailed(NativeMethods.fa_stream_synchronize(device.ToNative(), 0));
        }
        catch
        {
            _memory.Dispose();
            throw;
        }
    }

    /// <summary>Where the memory is.</summary>
    public Device Device { get; }

    /// <summary>Number of elements.</summary>
    public long Length { get; }

    /// <summary>Size of the memory in bytes.</summary>
    public long SizeBytes { get; }

    /// <summary>Address of the memory on its device; 0 if the array is empty. Valid until disposal.</summary>
    /// <exception cref="ObjectDisposedException">The array was disposed.</exception>
    public nint Pointer
    {
        get
        {
            ObjectDisposedException.ThrowIf(_memory.IsClosed, this);
            return _memory.Address;
        }
    }

    internal SafeHandle Memory => _memory;

    /// <summary>Queues a copy from host memory on a stream.</summary>
    /// <param name="source">As many elements as the array has; see <see cref="DeviceTensor{T}.CopyFrom(ReadOnlySpan{T}, DeviceStream?)"/>.</param>
    /// <param name="stream">Stream of the array's device; null for the default stream.</param>
    /// <exception cref="ArgumentException">Another length, or a stream of another device.</exception>
    /// <exception cref="FlashAttentionException">The driver refused.</exception>
    /// <exception cref="ObjectDisposedException">The array or the stream was disposed.</exception>
    public void CopyFrom(ReadOnlySpan<T> source, DeviceStream? stream)
    {
        Ensure.Exactly(source.Length, Length, nameof(source));
        fixed (T* host = source)
        {
            Copy(Device, Pointer, Device.Cpu, (nint)host, stream);
        }
    }

    /// <summary>Copies to a new array on the default stream and waits. Work on other streams is not waited for: synchronise it before.</summary>
    /// <returns>The elements.</returns>
    /// <exception cref="OverflowException">More elements than an array can hold.</exception>
    /// <exception cref="FlashAttentionException">The copy, or earlier work on the default stream, failed.</exception>
    /// <exception cref="ObjectDisposedException">The array was disposed.</exception>
    public T[] ToArray()
    {
        T[] result = new T[checked((int)Length)];
        fixed (T* host = result)
        {
            Copy(Device.Cpu, (nint)host, Device, Pointer, null);
        }

        NativeStatus.ThrowIfFailed(NativeMethods.fa_stream_synchronize(Device.ToNative(), 0));
        return result;
    }

    /// <inheritdoc/>
    public void Dispose() => _memory.Dispose();

    private void Copy(Device to, nint destination, Device from, nint source, DeviceStream? stream)
    {
        DeviceStream.Check(stream, Device, nameof(stream));
        using HandleLoan loan = new(_memory, "DeviceArray");
        using HandleLoan streamLoan = DeviceStream.Lend(stream);
        NativeStatus.ThrowIfFailed(NativeMethods.fa_memory_copy(
            to.ToNative(), (void*)destination, from.ToNative(), (void*)source, (ulong)SizeBytes, DeviceStream.ValueOf(stream)));
    }
}
