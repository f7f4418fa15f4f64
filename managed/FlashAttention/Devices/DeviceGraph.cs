using FlashAttention.Interop;

namespace FlashAttention;

/// <summary>Recorded work of a CUDA stream that can be launched again and again at little cost on the host.</summary>
/// <remarks>The graph holds the addresses of the recorded calls: tensors, workspaces and pointers must stay alive, and a workspace must not grow, until the
/// last launch has finished. Launching is thread-safe.</remarks>
public sealed class DeviceGraph : IDisposable
{
    private readonly GraphHandle _handle;

    private DeviceGraph(Device device, GraphHandle handle)
    {
        Device = device;
        _handle = handle;
    }

    /// <summary>The graph's device.</summary>
    public Device Device { get; }

    /// <summary>Records what a callback queues on a stream, instead of running it.</summary>
    /// <param name="stream">A stream of a CUDA device, not the default stream.</param>
    /// <param name="record">Queues the work on the stream that it is given. Nothing in it may allocate device memory or wait: reserve the workspace
    /// before.</param>
    /// <returns>A graph to dispose.</returns>
    /// <exception cref="FlashAttentionException">The device does not capture (CPU), it is the default stream, or the recorded work cannot be
    /// captured.</exception>
    /// <exception cref="ObjectDisposedException">The stream was disposed.</exception>
    public static DeviceGraph Capture(DeviceStream stream, Action<DeviceStream> record)
    {
        ArgumentNullException.ThrowIfNull(stream);
        ArgumentNullException.ThrowIfNull(record);
        using HandleLoan loan = stream.Lend();
        GraphHandle graph = new();
        NativeStatus.ThrowIfFailed(NativeMethods.fa_stream_begin_capture(stream.Device.ToNative(), stream.Handle));
        bool recorded = false;
        try
        {
            record(stream);
            recorded = true;
        }
        finally
        {
            // The stream must leave capture mode whatever happened; an exception of the callback outranks what ending an unfinished capture says.
            fa_status status = End(stream, graph);
            if (recorded)
            {
                NativeStatus.ThrowIfFailed(status);
            }
            else
            {
                graph.Dispose();
            }
        }

        return new DeviceGraph(stream.Device, graph);
    }

    /// <summary>Queues the recorded work on a stream.</summary>
    /// <param name="stream">Stream of the graph's device; null for the default stream.</param>
    /// <exception cref="ArgumentException">The stream belongs to another device.</exception>
    /// <exception cref="FlashAttentionException">The driver refused.</exception>
    /// <exception cref="ObjectDisposedException">The graph or the stream was disposed.</exception>
    public void Launch(DeviceStream? stream)
    {
        DeviceStream.Check(stream, Device, nameof(stream));
        ObjectDisposedException.ThrowIf(_handle.IsClosed, this);
        using HandleLoan loan = new(_handle, nameof(DeviceGraph));
        using HandleLoan streamLoan = DeviceStream.Lend(stream);
        NativeStatus.ThrowIfFailed(NativeMethods.fa_graph_launch(_handle.Value, DeviceStream.ValueOf(stream)));
    }

    /// <inheritdoc/>
    public void Dispose() => _handle.Dispose();

    private static unsafe fa_status End(DeviceStream stream, GraphHandle graph)
    {
        nint value = 0;
        fa_status status = NativeMethods.fa_stream_end_capture(stream.Device.ToNative(), stream.Handle, &value);
        graph.Take(value);
        return status;
    }
}
