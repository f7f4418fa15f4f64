using System.Runtime.CompilerServices;

namespace FlashAttention;

/// <summary>What can be stored in a tensor: the element types of attention, and bytes for boolean masks.</summary>
internal static class StorageType<T>
    where T : unmanaged
{
    /// <summary>The type's DType; throws for a type that is none of float, Half, BFloat16, byte and bool.</summary>
    public static DType DType
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => typeof(T) == typeof(byte) || typeof(T) == typeof(bool) ? DType.UInt8 : ElementType<T>.DType;
    }

    /// <summary>Exact conversion to double; a mask's byte is 0 or 1.</summary>
    public static double ToDouble(T value) =>
        typeof(T) == typeof(byte) ? (Unsafe.BitCast<T, byte>(value) == 0 ? 0 : 1)
        : typeof(T) == typeof(bool) ? (Unsafe.BitCast<T, bool>(value) ? 1 : 0)
        : ElementType<T>.ToDouble(value);
}
