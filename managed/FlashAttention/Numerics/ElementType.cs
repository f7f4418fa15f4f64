using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;

namespace FlashAttention;

/// <summary>What an element type is, decided by the JIT: every branch on <c>typeof(T)</c> is a constant.</summary>
internal static class ElementType<T>
    where T : unmanaged
{
    /// <summary>The element type's DType; throws for a type that is none of float, Half and BFloat16.</summary>
    public static DType DType
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get
        {
            if (typeof(T) == typeof(float))
            {
                return DType.Float32;
            }

            if (typeof(T) == typeof(Half))
            {
                return DType.Float16;
            }

            if (typeof(T) == typeof(BFloat16))
            {
                return DType.BFloat16;
            }

            ThrowUnsupported();
            return default;
        }
    }

    /// <summary>Exact conversion to double.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static double ToDouble(T value)
    {
        if (typeof(T) == typeof(float))
        {
            return Unsafe.BitCast<T, float>(value);
        }

        if (typeof(T) == typeof(Half))
        {
            return (double)Unsafe.BitCast<T, Half>(value);
        }

        if (typeof(T) == typeof(BFloat16))
        {
            return (float)Unsafe.BitCast<T, BFloat16>(value);
        }

        ThrowUnsupported();
        return default;
    }

    /// <summary>A float rounded to nearest even in the element type, as a float again.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Round(float value)
    {
        if (typeof(T) == typeof(float))
        {
            return value;
        }

        if (typeof(T) == typeof(Half))
        {
            return (float)(Half)value;
        }

        if (typeof(T) == typeof(BFloat16))
        {
            return (float)(BFloat16)value;
        }

        ThrowUnsupported();
        return default;
    }

    [DoesNotReturn]
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void ThrowUnsupported() =>
        throw new NotSupportedException($"T: expected float, Half or FlashAttention.BFloat16, got {typeof(T)}.");
}
