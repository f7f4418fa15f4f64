using FlashAttention.Interop;

namespace FlashAttention;

/// <summary>Page-locked host memory, which makes copies to and from a GPU asynchronous. Where there is no CUDA it is plain memory outside the managed
/// heap.</summary>
/// <typeparam name="T">Element type.</typeparam>
/// <remarks>A span of it must not be used after disposal: the memory is gone then.</remarks>
public sealed unsafe class PinnedBuffer<T> : IDisposable
    where T : unmanaged
{
    private readonly HostMemoryHandle _memory;

    /// <summary>Allocates a buffer. Contents are undefined.</summary>
    /// <param name="length">Number of elements, at least 0.</param>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="length"/> is negative.</exception>
    /// <exception cref="FlashAttentionException">There is not enough memory.</exception>
    public PinnedBuffer(int length)
    {
        Ensure.NotNegative(length, nameof(length));
        Length = length;
        _memory = HostMemoryHandle.Allocate((long)length * sizeof(T));
    }

    /// <summary>Number of elements.</summary>
    public int Length { get; }

    /// <summary>Address of the memory; 0 if the buffer is empty.</summary>
    /// <exception cref="ObjectDisposedException">The buffer was disposed.</exception>
    public nint Pointer
    {
        get
        {
            ObjectDisposedException.ThrowIf(_memory.IsClosed, this);
            return _memory.Address;
        }
    }

    /// <summary>The memory. Keep the buffer referenced while the span is in use.</summary>
    /// <exception cref="ObjectDisposedException">The buffer was disposed.</exception>
    public Span<T> Span => new((void*)Pointer, Length);

    /// <inheritdoc/>
    public void Dispose() => _memory.Dispose();
}
