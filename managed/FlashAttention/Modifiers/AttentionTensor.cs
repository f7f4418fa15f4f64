using System.Buffers;
using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using FlashAttention.Interop;

namespace FlashAttention;

/// <summary>A tensor of four dimensions that options and parts refer to: in host memory (a <see cref="Tensor{T}"/> or an array) or on a device. It owns
/// nothing and keeps host memory and device tensors from being collected.</summary>
/// <remarks>Immutable and thread-safe; the contents are the caller's to order. Making one allocates, using it does not: make it once and reuse it. Host memory
/// serves calls on the CPU only.</remarks>
public abstract class AttentionTensor
{
    private protected AttentionTensor(DType dtype, Device device, TensorShape sizes, TensorStrides strides) =>
        (DType, Device, Sizes, Strides) = (dtype, device, sizes, strides);

    /// <summary>Element type.</summary>
    public DType DType { get; }

    /// <summary>Where the memory is; the CPU for host memory.</summary>
    public Device Device { get; }

    /// <summary>Sizes of the four dimensions, in the order that the user of the tensor states.</summary>
    public TensorShape Sizes { get; }

    /// <summary>Strides in elements.</summary>
    public TensorStrides Strides { get; }

    /// <summary>A tensor on a device, or memory of any origin.</summary>
    /// <param name="view">View of it.</param>
    public static implicit operator AttentionTensor(TensorView view) => new DeviceView(view);

    /// <summary>A host tensor of rank 4.</summary>
    /// <param name="tensor">Tensor.</param>
    public static implicit operator AttentionTensor(Tensor<float> tensor) => From(tensor);

    /// <inheritdoc cref="op_Implicit(Tensor{float})"/>
    public static implicit operator AttentionTensor(Tensor<Half> tensor) => From(tensor);

    /// <inheritdoc cref="op_Implicit(Tensor{float})"/>
    public static implicit operator AttentionTensor(Tensor<BFloat16> tensor) => From(tensor);

    /// <inheritdoc cref="op_Implicit(Tensor{float})"/>
    public static implicit operator AttentionTensor(Tensor<byte> tensor) => From(tensor);

    /// <inheritdoc cref="op_Implicit(Tensor{float})"/>
    public static implicit operator AttentionTensor(Tensor<bool> tensor) => From(tensor);

    /// <summary>A host tensor of rank 4 with any strides.</summary>
    /// <typeparam name="T">float, Half, BFloat16, or for masks byte or bool.</typeparam>
    /// <param name="tensor">Tensor.</param>
    /// <returns>The tensor as an argument.</returns>
    /// <exception cref="ArgumentNullException"><paramref name="tensor"/> is null.</exception>
    /// <exception cref="ArgumentException">The rank is not 4.</exception>
    /// <exception cref="NotSupportedException"><typeparamref name="T"/> is another type.</exception>
    public static AttentionTensor From<T>(Tensor<T> tensor)
        where T : unmanaged
    {
        ArgumentNullException.ThrowIfNull(tensor);
        if (tensor.Rank != 4)
        {
            throw new ArgumentException($"tensor: expected rank 4, got rank {tensor.Rank}.", nameof(tensor));
        }

        return new HostTensor<T>(tensor);
    }

    /// <summary>Host memory without gaps.</summary>
    /// <typeparam name="T">float, Half, BFloat16, or for masks byte or bool.</typeparam>
    /// <param name="memory">As many elements as <paramref name="sizes"/> has, the last dimension contiguous.</param>
    /// <param name="sizes">Sizes of the four dimensions.</param>
    /// <returns>The memory as an argument.</returns>
    /// <exception cref="ArgumentException">Another number of elements.</exception>
    /// <exception cref="ArgumentOutOfRangeException">A size is negative.</exception>
    /// <exception cref="NotSupportedException"><typeparamref name="T"/> is another type.</exception>
    public static AttentionTensor From<T>(Memory<T> memory, TensorShape sizes)
        where T : unmanaged
    {
        Ensure.NotNegative(sizes.Batch, "sizes.Batch");
        Ensure.NotNegative(sizes.Sequence, "sizes.Sequence");
        Ensure.NotNegative(sizes.Heads, "sizes.Heads");
        Ensure.NotNegative(sizes.HeadDim, "sizes.HeadDim");
        Ensure.Exactly(memory.Length, sizes.ElementCount, nameof(memory));
        return new HostMemory<T>(memory, sizes);
    }

    /// <summary>Element type, sizes, strides and device.</summary>
    /// <returns>Text.</returns>
    public override string ToString() => $"{DType} {Sizes} strides {Strides} on {Device}";

    /// <summary>Keeps the memory in its place and alive until the loan is disposed.</summary>
    internal abstract MemoryLoan Borrow(string name);

    /// <summary>Elements in host memory in the order of the dimensions, widened; for the reference implementation.</summary>
    internal virtual double[] ToDoubles(string name) =>
        throw new ArgumentException($"{name}: expected host memory (a Tensor<T> or an array), got {this}.", "options");

    internal unsafe void CopyTo(fa_tensor* native, nint data) => new TensorView(data, DType, Device, Sizes, Strides).CopyTo(native);

    /// <summary>A tensor on a device.</summary>
    private sealed class DeviceView(TensorView view) : AttentionTensor(view.DType, view.Device, view.Sizes, view.Strides)
    {
        internal override MemoryLoan Borrow(string name) => MemoryLoan.Of(view.Data, view.Owner, name);
    }

    private sealed class HostTensor<T>(Tensor<T> tensor) : AttentionTensor(
        StorageType<T>.DType,
        Device.Cpu,
        new TensorShape(tensor.Lengths[0], tensor.Lengths[1], tensor.Lengths[2], tensor.Lengths[3]),
        new TensorStrides(tensor.Strides[0], tensor.Strides[1], tensor.Strides[2], tensor.Strides[3]))
        where T : unmanaged
    {
        internal override MemoryLoan Borrow(string name) => MemoryLoan.Pinned(tensor.GetPinnedHandle());

        internal override double[] ToDoubles(string name)
        {
            T[] flat = new T[checked((int)tensor.FlattenedLength)];
            tensor.FlattenTo(flat);
            return Array.ConvertAll(flat, StorageType<T>.ToDouble);
        }
    }

    private sealed class HostMemory<T>(Memory<T> memory, TensorShape sizes) : AttentionTensor(StorageType<T>.DType, Device.Cpu, sizes, Dense(sizes))
        where T : unmanaged
    {
        internal override MemoryLoan Borrow(string name) => MemoryLoan.Pinned(memory.Pin());

        internal override double[] ToDoubles(string name) => Array.ConvertAll(memory.ToArray(), StorageType<T>.ToDouble);

        // Dimension by dimension, whatever the dimensions mean here.
        private static TensorStrides Dense(TensorShape sizes) => sizes.GetStrides(TensorLayout.BatchSequenceHeads);
    }
}

/// <summary>Memory that stays in its place and alive until disposal: pinned host memory, or a loan of a handle.</summary>
internal unsafe struct MemoryLoan : IDisposable
{
    private MemoryHandle _pin;
    private SafeHandle? _owner;

    /// <summary>Address; 0 for empty or absent memory.</summary>
    public nint Data { get; private init; }

    public static MemoryLoan Pinned(MemoryHandle pin) => new() { _pin = pin, Data = (nint)pin.Pointer };

    public static MemoryLoan Of(nint data, SafeHandle? owner, string name)
    {
        if (owner is null)
        {
            return new MemoryLoan { Data = data };
        }

        ObjectDisposedException.ThrowIf(owner.IsClosed, name);
        bool added = false;
        owner.DangerousAddRef(ref added);
        return new MemoryLoan { _owner = owner, Data = data };
    }

    public void Dispose()
    {
        _pin.Dispose();
        _owner?.DangerousRelease();
        _owner = null;
    }
}
