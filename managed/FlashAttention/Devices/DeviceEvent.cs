using FlashAttention.Interop;

namespace FlashAttention;

/// <summary>A point in a stream with a time stamp. Thread-safe.</summary>
public sealed class DeviceEvent : IDisposable
{
    private readonly EventHandleOfDevice _handle;

    private DeviceEvent(Device device, EventHandleOfDevice handle)
    {
        Device = device;
        _handle = handle;
    }

    /// <summary>The event's device.</summary>
    public Device Device { get; }

    /// <summary>Whether the recorded work is complete, without waiting. An event that was never recorded is complete.</summary>
    /// <exception cref="FlashAttentionException">The recorded work failed.</exception>
    /// <exception cref="ObjectDisposedException">The event was disposed.</exception>
    public unsafe bool IsComplete
    {
        get
        {
            using HandleLoan loan = Lend();
            int complete = 0;
            NativeStatus.ThrowIfFailed(NativeMethods.fa_event_query(Value, &complete));
            return complete != 0;
        }
    }

    internal nint Value => _handle.Value;

    /// <summary>Makes an event.</summary>
    /// <param name="device">Device of the streams that it will be recorded on.</param>
    /// <returns>An event to dispose.</returns>
    /// <exception cref="FlashAttentionException">There is no such device, or the event could not be made.</exception>
    public static DeviceEvent Create(Device device) => new(device, EventHandleOfDevice.Create(device));

    /// <summary>Time between two recorded events of one device; waits for both.</summary>
    /// <param name="start">Earlier event.</param>
    /// <param name="end">Later event.</param>
    /// <returns>Milliseconds.</returns>
    /// <exception cref="FlashAttentionException">One was never recorded, they belong to different devices, or the work failed.</exception>
    /// <exception cref="ObjectDisposedException">An event was disposed.</exception>
    public static unsafe float ElapsedMilliseconds(DeviceEvent start, DeviceEvent end)
    {
        ArgumentNullException.ThrowIfNull(start);
        ArgumentNullException.ThrowIfNull(end);
        using HandleLoan startLoan = start.Lend();
        using HandleLoan endLoan = end.Lend();
        float milliseconds = 0;
        NativeStatus.ThrowIfFailed(NativeMethods.fa_event_elapsed_ms(start.Value, end.Value, &milliseconds));
        return milliseconds;
    }

    /// <summary>Marks the work queued so far on the device's default stream.</summary>
    /// <exception cref="FlashAttentionException">The driver refused.</exception>
    /// <exception cref="ObjectDisposedException">The event was disposed.</exception>
    public void Record() => Record(null);

    /// <summary>Marks the work queued on a stream so far.</summary>
    /// <param name="stream">Stream of the event's device; null for the default stream.</param>
    /// <exception cref="ArgumentException">The stream belongs to another device.</exception>
    /// <exception cref="FlashAttentionException">The driver refused.</exception>
    /// <exception cref="ObjectDisposedException">The event or the stream was disposed.</exception>
    public void Record(DeviceStream? stream)
    {
        DeviceStream.Check(stream, Device, nameof(stream));
        using HandleLoan loan = Lend();
        using HandleLoan streamLoan = DeviceStream.Lend(stream);
        NativeStatus.ThrowIfFailed(NativeMethods.fa_event_record(Value, DeviceStream.ValueOf(stream)));
    }

    /// <summary>Waits for the recorded work.</summary>
    /// <exception cref="FlashAttentionException">The work failed.</exception>
    /// <exception cref="ObjectDisposedException">The event was disposed.</exception>
    public void Synchronize()
    {
        using HandleLoan loan = Lend();
        NativeStatus.ThrowIfFailed(NativeMethods.fa_event_synchronize(Value));
    }

    /// <inheritdoc/>
    public void Dispose() => _handle.Dispose();

    internal HandleLoan Lend()
    {
        ObjectDisposedException.ThrowIf(_handle.IsClosed, this);
        return new HandleLoan(_handle, nameof(DeviceEvent));
    }
}
