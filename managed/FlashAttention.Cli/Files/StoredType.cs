namespace FlashAttention.Cli.Files;

/// <summary>Element type of a tensor in a file, always little-endian.</summary>
internal enum StoredType
{
    Float16,
    BFloat16,
    Float32,
    Float64,

    /// <summary>Bytes or bools of a mask: 0 or not 0.</summary>
    UInt8,
}

internal static class StoredTypes
{
    public static int Bytes(this StoredType type) => type switch
    {
        StoredType.Float16 or StoredType.BFloat16 => 2,
        StoredType.Float32 => 4,
        StoredType.UInt8 => 1,
        _ => 8,
    };

    public static string Name(this StoredType type) => type switch
    {
        StoredType.Float16 => "float16",
        StoredType.BFloat16 => "bfloat16",
        StoredType.Float32 => "float32",
        StoredType.UInt8 => "uint8",
        _ => "float64",
    };

    /// <summary>Number of elements of a shape; false if it does not fit 63 bits or a size is negative.</summary>
    public static bool TryCount(ReadOnlySpan<long> shape, out long count)
    {
        count = 1;
        bool empty = false;
        foreach (long size in shape)
        {
            if (size < 0)
            {
                return false;
            }
            empty |= size == 0;
        }
        if (empty)
        {
            count = 0;
            return true;
        }
        foreach (long size in shape)
        {
            if (count > long.MaxValue / 16 / size)
            {
                return false;
            }
            count *= size;
        }
        return true;
    }

    public static string FormatShape(ReadOnlySpan<long> shape) => $"({string.Join(", ", shape.ToArray())})";
}
