namespace FlashAttention;

/// <summary>Element type of a tensor. q, k, v, o and their gradients share one in a call.</summary>
public enum DType
{
    /// <summary>IEEE 754 binary32, <see cref="float"/>. Computed on the CPU only.</summary>
    Float32 = 0,

    /// <summary>IEEE 754 binary16, <see cref="Half"/>.</summary>
    Float16 = 1,

    /// <summary>The upper half of binary32, <see cref="FlashAttention.BFloat16"/>.</summary>
    BFloat16 = 2,

    /// <summary>Bytes or bools, 0 or not 0: boolean masks only.</summary>
    UInt8 = 3,
}

/// <summary>Facts about <see cref="DType"/>.</summary>
public static class DTypeExtensions
{
    /// <summary>Size of one element in bytes.</summary>
    /// <param name="dtype">Element type.</param>
    /// <returns>4, 2 or, for <see cref="DType.UInt8"/>, 1.</returns>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="dtype"/> is no defined value.</exception>
    public static int GetSizeBytes(this DType dtype) => dtype switch
    {
        DType.Float32 => 4,
        DType.Float16 or DType.BFloat16 => 2,
        DType.UInt8 => 1,
        _ => throw new ArgumentOutOfRangeException(nameof(dtype), dtype, "dtype: expected Float32, Float16, BFloat16 or UInt8."),
    };
}
