using FlashAttention.Interop;

namespace FlashAttention.Tests;

/// <summary>A strided (batch, sequence, heads, head_dim) tensor in a <see cref="GuardedBlock"/>. Several may share a block (packed QKV). The dense form that
/// goes in and comes out is ordered (batch, heads, sequence, head_dim), which keeps the rows of one head together.</summary>
internal sealed unsafe class TensorBuffer
{
    private readonly long[] sizes;
    private readonly long[] strides;
    private readonly long firstByte;

    /// <param name="block">Memory.</param>
    /// <param name="format">Element type.</param>
    /// <param name="sizes">Extents: batch, sequence, heads, head_dim.</param>
    /// <param name="strides">Strides in elements.</param>
    /// <param name="firstByte">Offset of element (0,0,0,0) in the block.</param>
    public TensorBuffer(GuardedBlock block, ElementFormat format, long[] sizes, long[] strides, long firstByte = 0)
    {
        Block = block;
        Format = format;
        this.sizes = sizes;
        this.strides = strides;
        this.firstByte = firstByte;
    }

    public GuardedBlock Block { get; }

    public ElementFormat Format { get; }

    public ReadOnlySpan<long> Sizes => sizes;

    public int Count => checked((int)(sizes[0] * sizes[1] * sizes[2] * sizes[3]));

    /// <summary>The tensor as the C ABI takes it.</summary>
    public fa_tensor Native
    {
        get
        {
            fa_tensor tensor = default;
            tensor.data = Block.Address + firstByte;
            for (int i = 0; i < 4; i++)
            {
                tensor.sizes[i] = sizes[i];
                tensor.strides[i] = strides[i];
            }
            tensor.dtype = (fa_dtype)Format.Code;
            return tensor;
        }
    }

    /// <summary>Byte offset in the block of every element, in dense order.</summary>
    public IEnumerable<long> ElementByteOffsets()
    {
        for (long b = 0; b < sizes[0]; b++)
        {
            for (long h = 0; h < sizes[2]; h++)
            {
                for (long s = 0; s < sizes[1]; s++)
                {
                    long row = firstByte + (b * strides[0] + s * strides[1] + h * strides[2]) * Format.Bytes;
                    for (long c = 0; c < sizes[3]; c++)
                    {
                        yield return row + c * strides[3] * Format.Bytes;
                    }
                }
            }
        }
    }

    /// <summary>Stores dense values; they must be values of the format.</summary>
    public void Store(ReadOnlySpan<double> dense)
    {
        int at = 0;
        foreach (long offset in ElementByteOffsets())
        {
            Format.WriteBits(Block.Host + offset, Format.Encode(dense[at++]));
        }
    }

    /// <summary>Marks every element as not yet written.</summary>
    public void Poison()
    {
        foreach (long offset in ElementByteOffsets())
        {
            Format.WriteBits(Block.Host + offset, Format.Poison);
        }
    }

    /// <summary>Bits of all elements in dense order.</summary>
    public uint[] LoadBits()
    {
        var bits = new uint[Count];
        int at = 0;
        foreach (long offset in ElementByteOffsets())
        {
            bits[at++] = Format.ReadBits(Block.Host + offset);
        }
        return bits;
    }

    /// <summary>Values in dense order; fails if an element still holds the poison.</summary>
    public double[] LoadWritten(string name)
    {
        uint[] bits = LoadBits();
        int unwritten = Array.IndexOf(bits, Format.Poison);
        Assert.That(unwritten, Is.EqualTo(-1), $"{name}: element {unwritten} of {bits.Length} was not written");
        return Array.ConvertAll(bits, Format.Decode);
    }
}
