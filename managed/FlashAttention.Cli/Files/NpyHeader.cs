using System.Buffers.Binary;
using System.Globalization;
using System.Text;

namespace FlashAttention.Cli.Files;

/// <summary>Header of a NumPy .npy file, format versions 1, 2 and 3: magic, version, length, and a Python dict literal that names type, order and
/// shape.</summary>
/// <param name="Descr">NumPy's type string, e.g. "&lt;f2".</param>
/// <param name="FortranOrder">True if the first index varies fastest.</param>
/// <param name="Shape">Sizes, outermost first.</param>
/// <param name="DataOffset">Where the elements start, in bytes.</param>
internal sealed record NpyHeader(string Descr, bool FortranOrder, long[] Shape, long DataOffset)
{
    /// <summary>A dict of this many bytes is no tensor's header; reading more would only serve a damaged length field.</summary>
    private const int MaxDictBytes = 1 << 20;

    private static ReadOnlySpan<byte> Magic => [0x93, (byte)'N', (byte)'U', (byte)'M', (byte)'P', (byte)'Y'];

    /// <summary>Reads the header of a mapped file; every defect is an error that names the file.</summary>
    public static NpyHeader Read(MappedFile file)
    {
        ReadOnlySpan<byte> head = file.Head(0, 12);
        if (head.Length < 10 || !head[..6].SequenceEqual(Magic))
        {
            throw Bad(file, head.Length < 10 ? $"the file has only {file.Length} bytes" : "it does not start with the .npy magic bytes");
        }
        int major = head[6];
        if (major is < 1 or > 3)
        {
            throw Bad(file, $"format version {major}.{head[7]} is unknown (expected 1, 2 or 3)");
        }
        if (major > 1 && head.Length < 12)
        {
            throw Bad(file, $"the file has only {file.Length} bytes");
        }
        int prefix = major == 1 ? 10 : 12;
        long dictBytes = major == 1 ? BinaryPrimitives.ReadUInt16LittleEndian(head[8..]) : BinaryPrimitives.ReadUInt32LittleEndian(head[8..]);
        if (dictBytes > MaxDictBytes || prefix + dictBytes > file.Length)
        {
            throw Bad(file, $"the header claims {dictBytes} bytes, the file has {file.Length}");
        }
        Encoding encoding = major == 3 ? Encoding.UTF8 : Encoding.Latin1;
        NpyDictReader reader = new(encoding.GetString(file.Head(prefix, (int)dictBytes)));
        if (!reader.TryRead(out string descr, out bool fortran, out long[] shape, out string error))
        {
            throw Bad(file, $"the header dict is malformed: {error}");
        }
        return new NpyHeader(descr, fortran, shape, prefix + dictBytes);
    }

    /// <summary>Header bytes of format 1.0 for C order, padded so that the elements start at a multiple of 64 bytes.</summary>
    public static byte[] Write(string descr, ReadOnlySpan<long> shape)
    {
        StringBuilder text = new();
        text.Append(CultureInfo.InvariantCulture, $"{{'descr': '{descr}', 'fortran_order': False, 'shape': (");
        foreach (long size in shape)
        {
            text.Append(CultureInfo.InvariantCulture, $"{size}, ");
        }
        if (shape.Length > 1)
        {
            text.Length -= 2;
        }
        text.Append("), }");
        int padding = (64 - (10 + text.Length + 1) % 64) % 64;
        text.Append(' ', padding).Append('\n');
        byte[] bytes = new byte[10 + text.Length];
        Magic.CopyTo(bytes);
        bytes[6] = 1;
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(8), (ushort)text.Length);
        Encoding.ASCII.GetBytes(text.ToString(), bytes.AsSpan(10));
        return bytes;
    }

    private static CliException Bad(MappedFile file, string why) => CliException.Usage($"{file.Path}: not a readable .npy file: {why}");
}
