using System.Buffers.Binary;
using System.Text.Json;

namespace FlashAttention.Cli.Files;

/// <summary>Header of a .safetensors file: a 64-bit little-endian length, then JSON that gives every tensor's type, shape and byte range.</summary>
internal sealed class SafetensorsHeader
{
    /// <summary>The format's own limit on the JSON part.</summary>
    private const ulong MaxJsonBytes = 100_000_000;

    /// <summary>One tensor; begin and end are byte offsets from <see cref="DataOffset"/>.</summary>
    public sealed record Entry(string DType, long[] Shape, long Begin, long End);

    public Dictionary<string, Entry> Tensors { get; } = new(StringComparer.Ordinal);

    /// <summary>Where the data starts in the file, in bytes.</summary>
    public long DataOffset { get; private init; }

    public static SafetensorsHeader Read(MappedFile file)
    {
        ReadOnlySpan<byte> head = file.Head(0, 8);
        if (head.Length < 8)
        {
            throw Bad(file, $"the file has only {file.Length} bytes");
        }
        ulong jsonBytes = BinaryPrimitives.ReadUInt64LittleEndian(head);
        if (jsonBytes > MaxJsonBytes || (long)jsonBytes > file.Length - 8)
        {
            throw Bad(file, $"the header claims {jsonBytes} bytes, the file has {file.Length}");
        }
        SafetensorsHeader header = new() { DataOffset = 8 + (long)jsonBytes };
        try
        {
            using JsonDocument document = JsonDocument.Parse(file.Head(8, (int)jsonBytes).ToArray());
            if (document.RootElement.ValueKind != JsonValueKind.Object)
            {
                throw Bad(file, "the header is no JSON object");
            }
            foreach (JsonProperty property in document.RootElement.EnumerateObject())
            {
                if (property.Name == "__metadata__")
                {
                    continue;
                }
                if (!header.Tensors.TryAdd(property.Name, ReadEntry(file, property, file.Length - header.DataOffset)))
                {
                    throw Bad(file, $"tensor '{property.Name}' twice");
                }
            }
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            // InvalidOperationException: a name with an unpaired surrogate.
            throw Bad(file, $"the header is no valid JSON: {e.Message}");
        }
        return header;
    }

    /// <summary>Length field and JSON for tensors stored one after the other in the order given, padded so that the data starts at a multiple of 64
    /// bytes.</summary>
    public static byte[] Write(IEnumerable<(string Name, string DType, long[] Shape, long Bytes)> tensors)
    {
        using MemoryStream stream = new();
        stream.Write(stackalloc byte[8]);
        using (Utf8JsonWriter json = new(stream))
        {
            long offset = 0;
            json.WriteStartObject();
            foreach ((string name, string dtype, long[] shape, long bytes) in tensors)
            {
                json.WriteStartObject(name);
                json.WriteString("dtype", dtype);
                json.WriteStartArray("shape");
                foreach (long size in shape)
                {
                    json.WriteNumberValue(size);
                }
                json.WriteEndArray();
                json.WriteStartArray("data_offsets");
                json.WriteNumberValue(offset);
                json.WriteNumberValue(offset += bytes);
                json.WriteEndArray();
                json.WriteEndObject();
            }
            json.WriteEndObject();
        }
        while (stream.Length % 64 != 0)
        {
            stream.WriteByte((byte)' ');
        }
        byte[] bytesOut = stream.ToArray();
        BinaryPrimitives.WriteUInt64LittleEndian(bytesOut, (ulong)bytesOut.Length - 8);
        return bytesOut;
    }

    private static Entry ReadEntry(MappedFile file, JsonProperty property, long available)
    {
        JsonElement value = property.Value;
        if (value.ValueKind != JsonValueKind.Object
            || !value.TryGetProperty("dtype", out JsonElement dtype) || dtype.ValueKind != JsonValueKind.String
            || !value.TryGetProperty("shape", out JsonElement shape) || !TryReadLongs(shape, out long[] sizes)
            || !value.TryGetProperty("data_offsets", out JsonElement range) || !TryReadLongs(range, out long[] offsets) || offsets.Length != 2)
        {
            throw Bad(file, $"tensor '{property.Name}' needs dtype (a string), shape (non-negative integers) and data_offsets (two of them)");
        }
        if (offsets[0] > offsets[1])
        {
            throw Bad(file, $"tensor '{property.Name}' has data_offsets [{offsets[0]}, {offsets[1]}]: the end lies before the beginning");
        }
        if (offsets[1] > available)
        {
            throw Bad(file, $"tensor '{property.Name}' ends at byte {offsets[1]} of the data, the file has {available}");
        }
        return new Entry(dtype.GetString()!, sizes, offsets[0], offsets[1]);
    }

    private static bool TryReadLongs(JsonElement array, out long[] values)
    {
        values = [];
        if (array.ValueKind != JsonValueKind.Array)
        {
            return false;
        }
        long[] read = new long[array.GetArrayLength()];
        for (int i = 0; i < read.Length; i++)
        {
            if (array[i].ValueKind != JsonValueKind.Number || !array[i].TryGetInt64(out read[i]) || read[i] < 0)
            {
                return false;
            }
        }
        values = read;
        return true;
    }

    private static CliException Bad(MappedFile file, string why) => CliException.Usage($"{file.Path}: not a readable .safetensors file: {why}");
}
