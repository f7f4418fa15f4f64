namespace FlashAttention;

/// <summary>Element type of a tensor. All tensors of a call share one.</summary>
public enum DType
{
    /// <summary>IEEE 754 binary32, <see cref="float"/>. Computed on the CPU only.</summary>
    Float32 = 0,

    /// <summary>IEEE 754 binary16, <see cref="Half"/>.</summary>
    Float16 = 1,

    /// <summary>The upper half of binary32, <see cref="FlashAttention.BFloat16"/>.</summary>
    BFloat16 = 2,
}

/// <summary>Facts about <see cref="DType"/>.</summary>
public static class DTypeExtensions
{
    /// <summary>Size of one element in bytes.</summary>
    /// <param name="dtype">Element type.</param>
    /// <returns>4 for <see cref="DType.Float32"/>, otherwise 2.</returns>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="dtype"/> is no defined value.</exception>
    public static int GetSizeBytes(this DType dtype) => dtype switch
    {
        DType.Float32 => 4,
        DType.Float16 or DType.BFloat16 => 2,
        _ => throw new ArgumentOutOfRangeException(nameof(dtype), dtype, "dtype: expected Float32, Float16 or BFloat16."),
    };
}
