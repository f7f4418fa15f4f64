using System.Buffers.Binary;
using System.Text;

namespace FlashAttention.Cli.Tests;

/// <summary>Writes and reads tensor files with code of its own, so that the program's readers and writers are tested against something else.</summary>
internal static class TestTensors
{
    public static double[] Normal(int seed, long count)
    {
        Random random = new(seed);
        double[] values = new double[count];
        for (int i = 0; i < values.Length; i++)
        {
            values[i] = Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Sin(2 * Math.PI * random.NextDouble());
        }
        return values;
    }

    public static byte[] Encode(string descr, double[] values) => [.. values.SelectMany(value => Encode(descr, value))];

    private static byte[] Encode(string descr, double value) => descr switch
    {
        "<f2" or "F16" => BitConverter.GetBytes((Half)value),
        ">f2" => [.. BitConverter.GetBytes((Half)value).Reverse()],
        "<f4" or "F32" => BitConverter.GetBytes((float)value),
        ">f4" => [.. BitConverter.GetBytes((float)value).Reverse()],
        "<f8" or "F64" => BitConverter.GetBytes(value),
        "<u2" or "<V2" or "|V2" or "BF16" => BitConverter.GetBytes(((BFloat16)value).ToBits()),
        "<i4" => BitConverter.GetBytes((int)value),
        _ => throw new ArgumentException(descr),
    };

    public static double[] Decode(string descr, ReadOnlySpan<byte> bytes)
    {
        int size = descr is "<f4" or "F32" ? 4 : descr is "<f8" or "F64" ? 8 : 2;
        double[] values = new double[bytes.Length / size];
        for (int i = 0; i < values.Length; i++)
        {
            ReadOnlySpan<byte> at = bytes.Slice(i * size, size);
            values[i] = descr switch
            {
                "<f2" or "F16" => (double)BinaryPrimitives.ReadHalfLittleEndian(at),
                "<f4" or "F32" => BinaryPrimitives.ReadSingleLittleEndian(at),
                "<f8" or "F64" => BinaryPrimitives.ReadDoubleLittleEndian(at),
                _ => BFloat16.FromBits(BinaryPrimitives.ReadUInt16LittleEndian(at)),
            };
        }
        return values;
    }

    /// <summary>A .npy file with any header text.</summary>
    public static byte[] Npy(string dict, byte[] data, int version = 1, int? claimedLength = null)
    {
        byte[] text = Encoding.UTF8.GetBytes(dict + "\n");
        List<byte> file = [0x93, (byte)'N', (byte)'U', (byte)'M', (byte)'P', (byte)'Y', (byte)version, 0];
        int length = claimedLength ?? text.Length;
        file.AddRange(version == 1 ? BitConverter.GetBytes((ushort)length) : BitConverter.GetBytes((uint)length));
        file.AddRange(text);
        file.AddRange(data);
        return [.. file];
    }

    public static byte[] Npy(string descr, long[] shape, double[] values, bool fortran = false, int version = 1) =>
        Npy(Dict(descr, shape, fortran), Encode(descr, values), version);

    public static string Dict(string descr, long[] shape, bool fortran = false) =>
        $"{{'descr': '{descr}', 'fortran_order': {(fortran ? "True" : "False")}, 'shape': ("
        + $"{string.Join(", ", shape)}{(shape.Length == 1 ? "," : string.Empty)}), }}";

    /// <summary>Reads a .npy file written by the program; its header must be format 1.0.</summary>
    public static (string Descr, string Header, double[] Values) ReadNpy(string path)
    {
        byte[] file = File.ReadAllBytes(path);
        int length = BinaryPrimitives.ReadUInt16LittleEndian(file.AsSpan(8));
        Assert.That((10 + length) % 64, Is.Zero, "data must be aligned");
        string header = Encoding.ASCII.GetString(file, 10, length);
        string descr = header.Split('\'')[3];
        return (descr, header, Decode(descr, file.AsSpan(10 + length)));
    }

    public static byte[] Safetensors(string json, byte[] data, ulong? claimedLength = null)
    {
        byte[] text = Encoding.UTF8.GetBytes(json);
        return [.. BitConverter.GetBytes(claimedLength ?? (ulong)text.Length), .. text, .. data];
    }

    /// <summary>From C order to Fortran order.</summary>
    public static double[] ToFortran(double[] values, long[] shape)
    {
        double[] result = new double[values.Length];
        for (long n = 0; n < values.Length; n++)
        {
            long rest = n, at = 0;
            long[] index = new long[shape.Length];
            for (int d = shape.Length - 1; d >= 0; d--)
            {
                index[d] = rest % shape[d];
                rest /= shape[d];
            }
            for (int d = shape.Length - 1; d >= 0; d--)
            {
                at = (at * shape[d]) + index[d];
            }
            result[at] = values[n];
        }
        return result;
    }
}
