using FlashAttention.Interop;

namespace FlashAttention;

/// <summary>A queue of work on a device. Work on one stream runs in order; work on different streams may overlap.</summary>
/// <remarks>On the CPU every call is complete when it returns, and a stream is a formality that makes code the same for both kinds of device.
/// Thread-safe, except that a capture must not be interleaved with other use of its stream. Disposing lets queued work finish.</remarks>
public sealed class DeviceStream : IDisposable
{
    private readonly StreamHandle _handle;

    private DeviceStream(Device device, StreamHandle handle)
    {
        Device = device;
        _handle = handle;
    }

    /// <summary>The stream's device.</summary>
    public Device Device { get; }

    /// <summary>The native stream: for CUDA a cudaStream_t (the same as a CUstream), for the CPU 0. Valid until disposal.</summary>
    /// <exception cref="ObjectDisposedException">The stream was disposed.</exception>
    public nint Handle
    {
        get
        {
            ObjectDisposedException.ThrowIf(_handle.IsClosed, this);
            return _handle.Value;
        }
    }

    internal StreamHandle SafeHandle => _handle;

    /// <summary>Makes a stream that does not synchronise with the default stream.</summary>
    /// <param name="device">Where its work runs.</param>
    /// <returns>A stream to dispose.</returns>
    /// <exception cref="FlashAttentionException">There is no such device, or the stream could not be made.</exception>
    public static DeviceStream Create(Device device) => new(device, StreamHandle.Create(device));

    /// <summary>Wraps a stream that another library made (cudaStream_t, CUstream); disposing leaves it alone.</summary>
    /// <param name="device">The stream's device.</param>
    /// <param name="handle">The native stream; 0 for the default stream. It must outlive the use of the result.</param>
    /// <returns>A wrapper.</returns>
    public static DeviceStream FromHandle(Device device, nint handle) => new(device, StreamHandle.Borrow(device, handle));

    /// <summary>Waits until all work queued on the stream has finished.</summary>
    /// <exception cref="FlashAttentionException">The work failed.</exception>
    /// <exception cref="ObjectDisposedException">The stream was disposed.</exception>
    public void Synchronize()
    {
        using HandleLoan loan = Lend();
        NativeStatus.ThrowIfFailed(NativeMethods.fa_stream_synchronize(Device.ToNative(), _handle.Value));
    }

    /// <summary>Makes later work on this stream wait for an event, without waiting on the host. An event that was never recorded is complete.</summary>
    /// <param name="deviceEvent">Event, recorded on any stream.</param>
    /// <exception cref="FlashAttentionException">The driver refused.</exception>
    /// <exception cref="ObjectDisposedException">The stream or the event was disposed.</exception>
    public void Wait(DeviceEvent deviceEvent)
    {
        ArgumentNullException.ThrowIfNull(deviceEvent);
        using HandleLoan loan = Lend();
        using HandleLoan eventLoan = deviceEvent.Lend();
        NativeStatus.ThrowIfFailed(NativeMethods.fa_stream_wait_event(Device.ToNative(), _handle.Value, deviceEvent.Value));
    }

    /// <inheritdoc/>
    public void Dispose() => _handle.Dispose();

    /// <summary>Device and native handle, for debugging.</summary>
    /// <returns>Text.</returns>
    public override string ToString() => _handle.IsClosed ? $"stream of {Device}, disposed" : $"stream 0x{_handle.Value:x} of {Device}";

    /// <summary>Handle of an optional stream: null means the device's default stream.</summary>
    internal static nint ValueOf(DeviceStream? stream) => stream is null ? 0 : stream._handle.Value;

    internal static HandleLoan Lend(DeviceStream? stream) => stream is null ? default : stream.Lend();

    /// <summary>Checks an optional stream of a call on a device.</summary>
    internal static void Check(DeviceStream? stream, Device device, string name)
    {
        if (stream is not null)
        {
            Ensure.SameDevice(device, stream.Device, name);
        }
    }

    internal HandleLoan Lend()
    {
        ObjectDisposedException.ThrowIf(_handle.IsClosed, this);
        return new HandleLoan(_handle, nameof(DeviceStream));
    }
}
