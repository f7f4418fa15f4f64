namespace FlashAttention.Tests;

/// <summary>Strides for the layouts of <see cref="Layout"/>, all in elements.</summary>
internal static class TensorStorage
{
    /// <summary>(batch, sequence, heads, head_dim), dense.</summary>
    public static long[] Bshd(ReadOnlySpan<long> sizes) => [sizes[1] * sizes[2] * sizes[3], sizes[2] * sizes[3], sizes[3], 1];

    /// <summary>(batch, heads, sequence, head_dim), dense.</summary>
    public static long[] Bhsd(ReadOnlySpan<long> sizes) => [sizes[1] * sizes[2] * sizes[3], sizes[3], sizes[1] * sizes[3], 1];

    /// <summary>Dense order with <paramref name="room"/> unused elements after each head row, each sequence row and each batch.</summary>
    public static long[] Padded(ReadOnlySpan<long> sizes, long room)
    {
        long head = (sizes[3] + 7) / 8 * 8 + room;
        long row = sizes[2] * head + 2 * room;
        return [sizes[1] * row + 3 * room, row, head, 1];
    }

    /// <summary>Elements from the first to one past the last.</summary>
    public static long Extent(ReadOnlySpan<long> sizes, ReadOnlySpan<long> strides)
    {
        long last = 0;
        for (int i = 0; i < sizes.Length; i++)
        {
            if (sizes[i] == 0)
            {
                return 0;
            }
            last += (sizes[i] - 1) * strides[i];
        }
        return last + 1;
    }

    /// <summary>A tensor in a block of its own.</summary>
    public static TensorBuffer Allocate(TestDevice device, ElementFormat format, long[] sizes, Layout layout, List<GuardedBlock> owner)
    {
        long[] strides = layout switch
        {
            Layout.Bhsd => Bhsd(sizes),
            Layout.Padded => Padded(sizes, 8),
            Layout.OddPadded => Padded(sizes, 3),
            _ => Bshd(sizes),
        };
        return Allocate(device, format, sizes, strides, layout == Layout.OddPadded ? format.Bytes : 0, owner);
    }

    /// <summary>A tensor of any strides in a block of its own, its first element <paramref name="firstByte"/> bytes past a 64-byte boundary.</summary>
    public static TensorBuffer Allocate(TestDevice device, ElementFormat format, long[] sizes, long[] strides, long firstByte, List<GuardedBlock> owner)
    {
        var block = new GuardedBlock(device, firstByte + Extent(sizes, strides) * format.Bytes, format);
        owner.Add(block);
        return new TensorBuffer(block, format, sizes, strides, firstByte);
    }

    /// <summary>Three tensors as interleaved slices of the rows of one buffer: batch x sequence x (all heads of all three).</summary>
    public static TensorBuffer[] AllocatePacked(TestDevice device, ElementFormat format, long[][] sizes, List<GuardedBlock> owner)
    {
        long row = sizes.Sum(s => s[2] * s[3]);
        long batch = sizes.Max(s => s[1]) * row;
        var block = new GuardedBlock(device, sizes[0][0] * batch * format.Bytes, format);
        owner.Add(block);
        var tensors = new TensorBuffer[sizes.Length];
        long first = 0;
        for (int i = 0; i < sizes.Length; i++)
        {
            tensors[i] = new TensorBuffer(block, format, sizes[i], [batch, row, sizes[i][3], 1], first * format.Bytes);
            first += sizes[i][2] * sizes[i][3];
        }
        return tensors;
    }
}
