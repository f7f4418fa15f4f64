namespace FlashAttention.Cli.Files;

/// <summary>A tensor found in a mapped file; its elements stay in the file.</summary>
internal sealed unsafe class TensorSource : IDisposable
{
    private readonly MappedFile _file;

    private TensorSource(MappedFile file, string label, StoredType type, long[] shape, bool fortranOrder, long offset, string? bfloat16Descr)
    {
        _file = file;
        Label = label;
        Type = type;
        Shape = shape;
        FortranOrder = fortranOrder;
        Data = file.Pointer + offset;
        BFloat16Descr = bfloat16Descr;
    }

    /// <summary>File (and name in it), as error messages call it.</summary>
    public string Label { get; }

    public StoredType Type { get; }

    /// <summary>Sizes as in the file, outermost first.</summary>
    public long[] Shape { get; }

    /// <summary>True if the first index varies fastest.</summary>
    public bool FortranOrder { get; }

    /// <summary>First element; in the mapped file, so read-only and possibly less aligned than an element.</summary>
    public byte* Data { get; }

    /// <summary>How a .npy file spelt bfloat16, which NumPy has no type for; null for other types and files.</summary>
    public string? BFloat16Descr { get; }

    /// <summary>Opens a .npy file, or one tensor of a .safetensors file.</summary>
    /// <param name="path">The file; its extension says which format it is.</param>
    /// <param name="tensorName">Name in a .safetensors file.</param>
    /// <param name="nameOption">The option that sets <paramref name="tensorName"/>, for messages; null if there is none.</param>
    /// <param name="rawBFloat16">True: 16-bit unsigned and 2-byte void elements of .npy files are bfloat16.</param>
    /// <param name="bytes">True: bytes and bools are known too.</param>
    public static TensorSource Open(string path, string tensorName, string? nameOption, bool rawBFloat16, bool bytes = false)
    {
        bool npy = TensorFormat.Of(path) == TensorFormat.Kind.Npy;
        MappedFile file = new(path);
        try
        {
            return npy ? OpenNpy(file, rawBFloat16, bytes) : OpenSafetensors(file, tensorName, nameOption, bytes);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    public void Dispose() => _file.Dispose();

    private static TensorSource OpenNpy(MappedFile file, bool rawBFloat16, bool bytes)
    {
        NpyHeader header = NpyHeader.Read(file);
        string descr = header.Descr;
        StoredType? type = descr switch
        {
            "<f2" => StoredType.Float16,
            "<f4" => StoredType.Float32,
            "<f8" => StoredType.Float64,
            "<u2" or "<V2" or "|V2" when rawBFloat16 => StoredType.BFloat16,
            "|b1" or "|u1" when bytes => StoredType.UInt8,
            _ => null,
        };
        if (type is null)
        {
            string hint = descr switch
            {
                "<u2" or "<V2" or "|V2" => $"'{descr}' may hold raw bfloat16: add --bf16 to read it so",
                ['>', 'f', ..] => $"'{descr}' is big-endian; save it as '<{descr[1..]}'",
                ['>', ..] => $"'{descr}' is big-endian and no floating-point type",
                _ when bytes => $"type '{descr}' is not one of '|b1', '|u1' (bool, uint8)",
                _ => $"type '{descr}' is not one of '<f2', '<f4', '<f8' (float16, float32, float64), or with --bf16 '<u2', '<V2'",
            };
            throw CliException.Usage($"{file.Path}: {hint}");
        }
        CheckExtent(file, file.Path, header.Shape, type.Value, header.DataOffset, file.Length - header.DataOffset, exact: false);
        return new TensorSource(file, file.Path, type.Value, header.Shape, header.FortranOrder && header.Shape.Length > 1, header.DataOffset,
            type == StoredType.BFloat16 ? descr : null);
    }

    private static TensorSource OpenSafetensors(MappedFile file, string tensorName, string? nameOption, bool bytes)
    {
        SafetensorsHeader header = SafetensorsHeader.Read(file);
        if (!header.Tensors.TryGetValue(tensorName, out SafetensorsHeader.Entry? entry))
        {
            string hint = nameOption is null ? string.Empty : $" (say which with {nameOption})";
            string names = header.Tensors.Count == 0 ? "no tensors" : string.Join(", ", header.Tensors.Keys.Order(StringComparer.Ordinal).Take(20));
            throw CliException.Usage($"{file.Path}: there is no tensor '{tensorName}'{hint}; the file has {names}");
        }
        string label = $"{file.Path} [{tensorName}]";
        StoredType type = entry.DType switch
        {
            "F16" => StoredType.Float16,
            "BF16" => StoredType.BFloat16,
            "F32" => StoredType.Float32,
            "F64" => StoredType.Float64,
            "BOOL" or "U8" when bytes => StoredType.UInt8,
            _ => throw CliException.Usage($"{label}: type {entry.DType} is not one of {(bytes ? "BOOL, U8" : "F16, BF16, F32, F64")}"),
        };
        CheckExtent(file, label, entry.Shape, type, header.DataOffset + entry.Begin, entry.End - entry.Begin, exact: true);
        return new TensorSource(file, label, type, entry.Shape, false, header.DataOffset + entry.Begin, null);
    }

    /// <summary>Checks that the shape's elements are in the file: <paramref name="available"/> bytes from <paramref name="offset"/> on.</summary>
    private static void CheckExtent(MappedFile file, string label, long[] shape, StoredType type, long offset, long available, bool exact)
    {
        if (!StoredTypes.TryCount(shape, out long count))
        {
            throw CliException.Usage($"{label}: shape {StoredTypes.FormatShape(shape)} has more elements than any file can hold");
        }
        long needed = count * type.Bytes();
        string sizes = StoredTypes.FormatShape(shape);
        if (needed > available || (exact && needed != available) || offset + needed > file.Length)
        {
            throw CliException.Usage($"{label}: shape {sizes} of {type.Name()} needs {needed} bytes of data, the file has {available}");
        }
        if (!exact && needed != available)
        {
            throw CliException.Usage($"{label}: {available - needed} bytes follow the {needed} bytes of data that shape {sizes} needs");
        }
    }
}
