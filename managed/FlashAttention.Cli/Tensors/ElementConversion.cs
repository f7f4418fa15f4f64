using System.Runtime.CompilerServices;
using FlashAttention.Cli.Files;

namespace FlashAttention.Cli.Tensors;

/// <summary>Conversions between element types, each rounded once to nearest even. Pointers may be less aligned than an element.</summary>
internal static unsafe class ElementConversion
{
    public static double Read(byte* at, StoredType type) => type switch
    {
        StoredType.Float16 => (double)BitConverter.UInt16BitsToHalf(Unsafe.ReadUnaligned<ushort>(at)),
        StoredType.BFloat16 => BFloat16.FromBits(Unsafe.ReadUnaligned<ushort>(at)),
        StoredType.Float32 => Unsafe.ReadUnaligned<float>(at),
        _ => Unsafe.ReadUnaligned<double>(at),
    };

    public static void Write(byte* at, StoredType type, double value)
    {
        switch (type)
        {
            case StoredType.Float16:
                Unsafe.WriteUnaligned(at, (Half)value);
                break;
            case StoredType.BFloat16:
                Unsafe.WriteUnaligned(at, ((BFloat16)value).ToBits());
                break;
            case StoredType.Float32:
                Unsafe.WriteUnaligned(at, (float)value);
                break;
            default:
                Unsafe.WriteUnaligned(at, value);
                break;
        }
    }

    public static void ToFloats(byte* source, StoredType type, Span<float> destination)
    {
        for (int i = 0; i < destination.Length; i++)
        {
            destination[i] = (float)Read(source + (long)i * type.Bytes(), type);
        }
    }

    public static void FromFloats(ReadOnlySpan<float> source, byte* destination, StoredType type)
    {
        for (int i = 0; i < source.Length; i++)
        {
            Write(destination + (long)i * type.Bytes(), type, source[i]);
        }
    }

    /// <summary>Copies a tensor of a file into C order, converting its elements.</summary>
    public static void CopyToCOrder(TensorSource source, byte* destination, StoredType type)
    {
        int rank = source.Shape.Length;
        if (!StoredTypes.TryCount(source.Shape, out long count) || count == 0)
        {
            return;
        }
        long[] strides = new long[rank];
        long stride = source.Type.Bytes();
        for (int i = 0; i < rank; i++)
        {
            int dimension = source.FortranOrder ? i : rank - 1 - i;
            strides[dimension] = stride;
            stride *= source.Shape[dimension];
        }
        long[] index = new long[rank];
        byte* from = source.Data;
        bool sameType = source.Type == type;
        int bytes = type.Bytes();
        for (long n = 0; n < count; n++, destination += bytes)
        {
            if (sameType)
            {
                // Bits as they are: a conversion would quieten signalling NaNs.
                Unsafe.CopyBlockUnaligned(destination, from, (uint)bytes);
            }
            else
            {
                Write(destination, type, Read(from, source.Type));
            }
            for (int d = rank - 1; d >= 0; d--)
            {
                from += strides[d];
                if (++index[d] < source.Shape[d])
                {
                    break;
                }
                from -= strides[d] * source.Shape[d];
                index[d] = 0;
            }
        }
    }
}
