using FlashAttention.Interop;

namespace FlashAttention;

/// <summary>Scratch memory of a device that calls share and that only grows, so that calls of a size seen before allocate nothing.</summary>
/// <remarks>Not thread-safe, and its contents belong to one call at a time: use one workspace for each stream (CPU: each thread). Growing frees the old memory,
/// for which CUDA waits until the device is idle; <see cref="Reserve"/> ahead of time where that matters, and always before a capture.
/// The overloads on host spans keep a workspace of their own for each thread; <see cref="ReleaseThreadCache"/> frees the calling thread's.</remarks>
public sealed class Workspace : IDisposable
{
    [ThreadStatic]
    private static Workspace? t_host;

    private DeviceMemoryHandle? _memory;
    private bool _disposed;

    /// <summary>Makes an empty workspace.</summary>
    /// <param name="device">Where the memory will be.</param>
    public Workspace(Device device) => Device = device;

    /// <summary>Where the memory is.</summary>
    public Device Device { get; }

    /// <summary>Bytes reserved so far.</summary>
    public long SizeBytes { get; private set; }

    /// <summary>Address of the memory; 0 while nothing is reserved.</summary>
    /// <exception cref="ObjectDisposedException">The workspace was disposed.</exception>
    public nint Pointer
    {
        get
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            return _memory?.Address ?? 0;
        }
    }

    /// <summary>The calling thread's workspace for calls on host spans. It is freed by the finaliser after the thread has ended.</summary>
    internal static Workspace ForHostCalls
    {
        get
        {
            Workspace? host = t_host;
            return host is { _disposed: false } ? host : t_host = new Workspace(Device.Cpu);
        }
    }

    internal DeviceMemoryHandle? Memory => _memory;

    /// <summary>Frees the scratch memory that calls on host spans keep for the calling thread; the next such call allocates it again.</summary>
    public static void ReleaseThreadCache()
    {
        t_host?.Dispose();
        t_host = null;
    }

    /// <summary>Makes the workspace at least this large. Contents are lost when it grows.</summary>
    /// <param name="sizeBytes">Bytes, at least 0, as <see cref="AttentionPlan.WorkspaceBytes"/> says.</param>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="sizeBytes"/> is negative.</exception>
    /// <exception cref="FlashAttentionException">There is not enough memory, or no such device. The workspace is empty then.</exception>
    /// <exception cref="ObjectDisposedException">The workspace was disposed.</exception>
    public void Reserve(long sizeBytes)
    {
        Ensure.NotNegative(sizeBytes, nameof(sizeBytes));
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (sizeBytes > SizeBytes)
        {
            Grow(sizeBytes);
        }
    }

    /// <summary>Frees the memory. For CUDA this waits for queued work that uses the device.</summary>
    public void Dispose()
    {
        _disposed = true;
        Free();
    }

    private void Grow(long sizeBytes)
    {
        // The old memory goes first, so that growing never needs the sum of both.
        Free();
        _memory = DeviceMemoryHandle.Allocate(Device, sizeBytes);
        SizeBytes = sizeBytes;
    }

    private void Free()
    {
        _memory?.Dispose();
        _memory = null;
        SizeBytes = 0;
    }
}
