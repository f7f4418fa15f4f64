using System.Diagnostics.CodeAnalysis;
using System.Runtime.InteropServices;

namespace FlashAttention.Interop;

/// <summary>Memory of fa_memory_allocate.</summary>
internal sealed unsafe class DeviceMemoryHandle : SafeHandle
{
    private readonly Device _device;

    private DeviceMemoryHandle(Device device)
        : base(0, ownsHandle: true) => _device = device;

    public override bool IsInvalid => handle == 0;

    /// <summary>The address; 0 for an empty allocation.</summary>
    public nint Address => handle;

    public static DeviceMemoryHandle Allocate(Device device, long sizeBytes)
    {
        // The handle object comes first, so that no failure can lose the memory.
        DeviceMemoryHandle memory = new(device);
        void* pointer = null;
        NativeStatus.ThrowIfFailed(NativeMethods.fa_memory_allocate(device.ToNative(), (ulong)sizeBytes, &pointer));
        memory.SetHandle((nint)pointer);
        return memory;
    }

    protected override bool ReleaseHandle() => NativeMethods.fa_memory_free(_device.ToNative(), (void*)handle) == fa_status.FA_STATUS_OK;
}

/// <summary>Memory of fa_memory_allocate_host.</summary>
internal sealed unsafe class HostMemoryHandle : SafeHandle
{
    private HostMemoryHandle()
        : base(0, ownsHandle: true)
    {
    }

    public override bool IsInvalid => handle == 0;

    public nint Address => handle;

    public static HostMemoryHandle Allocate(long sizeBytes)
    {
        HostMemoryHandle memory = new();
        void* pointer = null;
        NativeStatus.ThrowIfFailed(NativeMethods.fa_memory_allocate_host((ulong)sizeBytes, &pointer));
        memory.SetHandle((nint)pointer);
        return memory;
    }

    protected override bool ReleaseHandle() => NativeMethods.fa_memory_free_host((void*)handle) == fa_status.FA_STATUS_OK;
}

/// <summary>A stream, made by fa_stream_create (owned) or elsewhere (borrowed). The null stream is a valid value of it.</summary>
internal sealed unsafe class StreamHandle : SafeHandle
{
    private readonly Device _device;

    private StreamHandle(Device device, bool owned)
        : base(0, owned) => _device = device;

    // The CPU's stream and CUDA's default stream are null; there is nothing to release then.
    public override bool IsInvalid => handle == 0;

    public nint Value => handle;

    public static StreamHandle Create(Device device)
    {
        StreamHandle stream = new(device, owned: true);
        nint value = 0;
        NativeStatus.ThrowIfFailed(NativeMethods.fa_stream_create(device.ToNative(), &value));
        stream.SetHandle(value);
        return stream;
    }

    public static StreamHandle Borrow(Device device, nint value)
    {
        StreamHandle stream = new(device, owned: false);
        stream.SetHandle(value);
        return stream;
    }

    protected override bool ReleaseHandle() => NativeMethods.fa_stream_destroy(_device.ToNative(), handle) == fa_status.FA_STATUS_OK;
}

/// <summary>An event of fa_event_create.</summary>
internal sealed unsafe class EventHandleOfDevice : SafeHandle
{
    private EventHandleOfDevice()
        : base(0, ownsHandle: true)
    {
    }

    public override bool IsInvalid => handle == 0;

    public nint Value => handle;

    public static EventHandleOfDevice Create(Device device)
    {
        EventHandleOfDevice handle = new();
        nint value = 0;
        NativeStatus.ThrowIfFailed(NativeMethods.fa_event_create(device.ToNative(), &value));
        handle.SetHandle(value);
        return handle;
    }

    protected override bool ReleaseHandle() => NativeMethods.fa_event_destroy(handle) == fa_status.FA_STATUS_OK;
}

/// <summary>A graph of fa_stream_end_capture.</summary>
internal sealed class GraphHandle : SafeHandle
{
    public GraphHandle()
        : base(0, ownsHandle: true)
    {
    }

    public override bool IsInvalid => handle == 0;

    public nint Value => handle;

    public void Take(nint value) => SetHandle(value);

    protected override bool ReleaseHandle() => NativeMethods.fa_graph_destroy(handle) == fa_status.FA_STATUS_OK;
}

/// <summary>Keeps a handle alive and unreleased for the length of a native call: a ref-counted loan, returned by <see cref="Dispose"/>. Null lends
/// nothing.</summary>
internal ref struct HandleLoan
{
    private readonly SafeHandle? _handle;
    private bool _added;

    /// <summary>Takes the loan; throws <see cref="ObjectDisposedException"/> if the handle was released.</summary>
    /// <param name="handle">Handle, or null.</param>
    /// <param name="name">Argument that the handle belongs to.</param>
    public HandleLoan(SafeHandle? handle, string name)
    {
        if (handle is { IsClosed: true })
        {
            ThrowReleased(name);
        }

        _handle = handle;
        _added = false;
        handle?.DangerousAddRef(ref _added);
    }

    public void Dispose()
    {
        if (_added)
        {
            _handle!.DangerousRelease();
            _added = false;
        }
    }

    [DoesNotReturn]
    private static void ThrowReleased(string name) => throw new ObjectDisposedException(name, $"{name}: expected a live object, got one that was disposed.");
}
