using System.Runtime.InteropServices;
using FlashAttention.Interop;

namespace FlashAttention;

/// <summary>A strided view of memory on a device: what a call reads or writes. It owns nothing.</summary>
/// <remarks>Wraps a pointer of any library (ManagedCuda, ILGPU, TorchSharp, CUDA itself), or converts from a <see cref="DeviceTensor{T}"/>, which the view then
/// keeps from being collected. Pointers, sizes and strides are validated by the calls that take the view.</remarks>
public readonly struct TensorView
{
    /// <summary>Makes a view of a tensor without gaps in the order (batch, sequence, heads, head_dim).</summary>
    /// <param name="data">Address of the first element on <paramref name="device"/>, aligned to the element size; 0 only if a size is 0 or for a
    /// description.</param>
    /// <param name="dtype">Element type.</param>
    /// <param name="device">Where the memory is.</param>
    /// <param name="sizes">Sizes in elements.</param>
    public TensorView(nint data, DType dtype, Device device, TensorShape sizes)
        : this(data, dtype, device, sizes, sizes.GetStrides(TensorLayout.BatchSequenceHeads))
    {
    }

    /// <summary>Makes a view with any strides.</summary>
    /// <param name="data">Address of element (0, 0, 0, 0) on <paramref name="device"/>, aligned to the element size; 0 only if a size is 0 or for a
    /// description.</param>
    /// <param name="dtype">Element type.</param>
    /// <param name="device">Where the memory is.</param>
    /// <param name="sizes">Sizes in elements.</param>
    /// <param name="strides">Strides in elements, none negative; inputs may use 0 (a broadcast).</param>
    public TensorView(nint data, DType dtype, Device device, TensorShape sizes, TensorStrides strides)
        : this(data, dtype, device, sizes, strides, owner: null)
    {
    }

    internal TensorView(nint data, DType dtype, Device device, TensorShape sizes, TensorStrides strides, SafeHandle? owner)
    {
        Data = data;
        DType = dtype;
        Device = device;
        Sizes = sizes;
        Strides = strides;
        Owner = owner;
    }

    /// <summary>Address of element (0, 0, 0, 0).</summary>
    public nint Data { get; }

    /// <summary>Element type.</summary>
    public DType DType { get; }

    /// <summary>Where the memory is.</summary>
    public Device Device { get; }

    /// <summary>Sizes in elements.</summary>
    public TensorShape Sizes { get; }

    /// <summary>Strides in elements.</summary>
    public TensorStrides Strides { get; }

    /// <summary>The memory's handle if it is known; it lives at least as long as the view.</summary>
    internal SafeHandle? Owner { get; }

    /// <summary>A part of the view, without a copy: for example the queries of a packed QKV buffer.</summary>
    /// <param name="start">Index of the part's first element in each dimension.</param>
    /// <param name="sizes">Sizes of the part.</param>
    /// <returns>A view of the part with the same strides.</returns>
    /// <exception cref="ArgumentOutOfRangeException">The part is not inside the view.</exception>
    public TensorView Slice(TensorShape start, TensorShape sizes)
    {
        CheckRange(start.Batch, sizes.Batch, Sizes.Batch, "batch");
        CheckRange(start.Sequence, sizes.Sequence, Sizes.Sequence, "sequence");
        CheckRange(start.Heads, sizes.Heads, Sizes.Heads, "heads");
        CheckRange(start.HeadDim, sizes.HeadDim, Sizes.HeadDim, "head_dim");
        long offset = checked((start.Batch * Strides.Batch) + (start.Sequence * Strides.Sequence) + (start.Heads * Strides.Heads)
            + (start.HeadDim * Strides.HeadDim));
        nint data = sizes.ElementCount == 0 ? Data : checked((nint)(Data + (offset * DType.GetSizeBytes())));
        return new TensorView(data, DType, Device, sizes, Strides, Owner);
    }

    /// <summary>Element type, sizes, strides, device and address.</summary>
    /// <returns>Text.</returns>
    public override string ToString() => $"{DType} {Sizes} strides {Strides} at 0x{Data:x} on {Device}";

    internal unsafe void CopyTo(fa_tensor* native)
    {
        native->data = (void*)Data;
        native->sizes[0] = Sizes.Batch;
        native->sizes[1] = Sizes.Sequence;
        native->sizes[2] = Sizes.Heads;
        native->sizes[3] = Sizes.HeadDim;
        native->strides[0] = Strides.Batch;
        native->strides[1] = Strides.Sequence;
        native->strides[2] = Strides.Heads;
        native->strides[3] = Strides.HeadDim;
        native->dtype = (fa_dtype)(int)DType;
        native->reserved = 0;
    }

    private static void CheckRange(long start, long size, long available, string dimension)
    {
        if (start < 0 || size < 0 || start > available - size)
        {
            throw new ArgumentOutOfRangeException(
                nameof(start), start, $"start, sizes: expected a part of {dimension} 0 … {available}, got {size} elements from {start}.");
        }
    }
}

/// <summary>Where a device call reads or writes one fp32 number for each (batch, head, query): the log-sum-exp of the scores, or its gradient. It owns
/// nothing.</summary>
/// <remarks>The memory is contiguous in the order (batch, heads_q, len_q). Converts from an address, and from a <see cref="DeviceTensor{T}"/> of
/// <see cref="float"/>, whose device and number of elements are then checked.</remarks>
public readonly struct LseView
{
    private LseView(nint data, DeviceTensor<float>? tensor)
    {
        Data = data;
        Tensor = tensor;
    }

    /// <summary>Absent: not wanted, or took no part in the loss.</summary>
    public static LseView None => default;

    /// <summary>Address of the first number on the call's device; 0 if absent.</summary>
    public nint Data { get; }

    internal DeviceTensor<float>? Tensor { get; }

    internal SafeHandle? Owner => Tensor?.Memory;

    /// <summary>A view of memory whose size is the caller's responsibility.</summary>
    /// <param name="data">Address on the call's device, aligned to 4 bytes; 0 for absent.</param>
    public static implicit operator LseView(nint data) => new(data, null);

    /// <summary>A view of a tensor; null for absent.</summary>
    /// <param name="tensor">Tensor of batch · heads_q · len_q elements; its own shape does not matter.</param>
    /// <exception cref="ObjectDisposedException">The tensor was disposed.</exception>
    public static implicit operator LseView(DeviceTensor<float>? tensor) => tensor is null ? default : new LseView(tensor.Pointer, tensor);

    /// <summary>Checks what is known of the memory.</summary>
    internal void Check(Device device, in TensorView q, string name)
    {
        if (Tensor is { } tensor)
        {
            Ensure.SameDevice(device, tensor.Device, name);
            Ensure.LseLength(tensor.Length, q.Sizes.Batch, q.Sizes.Heads, q.Sizes.Sequence, name);
        }
    }
}
