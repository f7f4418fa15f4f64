using System.Runtime.InteropServices;
using FlashAttention.Interop;

namespace FlashAttention.Tests;

/// <summary>Plain host memory for the structs and arrays that bad options point to; it lives as long as the process.</summary>
internal static unsafe class VariantScratch
{
    private static readonly byte* Memory = (byte*)NativeMemory.AlignedAlloc(1 << 16, 64);

    /// <summary>16 KiB of zeros that stand for the contents of tensors and arrays.</summary>
    public static byte* Data
    {
        get
        {
            new Span<byte>(Memory, 1 << 14).Clear();
            return Memory;
        }
    }

    /// <summary>The same memory as the calls have left it.</summary>
    public static byte* Kept => Memory;

    /// <summary>A dense tensor of four dimensions; each call reuses the struct of the same slot.</summary>
    public static fa_tensor* Tensor(int slot, fa_dtype dtype, long s0, long s1, long s2, long s3)
    {
        var tensor = (fa_tensor*)(Memory + (1 << 14) + slot * 256);
        *tensor = new fa_tensor { data = Data, dtype = dtype };
        (tensor->sizes[0], tensor->sizes[1], tensor->sizes[2], tensor->sizes[3]) = (s0, s1, s2, s3);
        (tensor->strides[0], tensor->strides[1], tensor->strides[2], tensor->strides[3]) = (s1 * s2 * s3, s2 * s3, s3, 1);
        return tensor;
    }

    /// <summary>Sequences without any lengths.</summary>
    public static fa_sequences* Sequences(long count)
    {
        var sequences = (fa_sequences*)(Memory + (1 << 15));
        *sequences = new fa_sequences { struct_size = (uint)sizeof(fa_sequences), count = count };
        return sequences;
    }

    /// <summary>An array of lengths; each call reuses the array of the same slot.</summary>
    public static int* Lengths(int slot, params ReadOnlySpan<int> values)
    {
        var lengths = (int*)(Memory + (1 << 15) + 1024 + slot * 256);
        values.CopyTo(new Span<int>(lengths, values.Length));
        return lengths;
    }
}
