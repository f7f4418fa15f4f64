namespace FlashAttention.Tests;

/// <summary>An element type as the tests see it: rounding, units in the last place and bits, written independently of the product's own conversions.</summary>
public sealed class ElementFormat
{
    public static readonly ElementFormat Float32 = new("f32", 0, 4, 24, -126, 127);
    public static readonly ElementFormat Float16 = new("f16", 1, 2, 11, -14, 15);
    public static readonly ElementFormat BFloat16 = new("bf16", 2, 2, 8, -126, 127);

    /// <summary>Bytes of boolean masks.</summary>
    public static readonly ElementFormat UInt8 = new("u8", 3, 1, 8, 0, 7);

    /// <summary>Lengths; no fa_dtype.</summary>
    public static readonly ElementFormat Int32 = new("i32", -1, 4, 31, 0, 30);

    private readonly int minExponent;

    private ElementFormat(string name, int code, int bytes, int precision, int minExponent, int maxExponent)
    {
        Name = name;
        Code = code;
        Bytes = bytes;
        Precision = precision;
        this.minExponent = minExponent;
        MaxFinite = Math.ScaleB(2.0 - Math.ScaleB(1.0, 1 - precision), maxExponent);
    }

    public string Name { get; }

    /// <summary>The value of fa_dtype.</summary>
    public int Code { get; }

    public int Bytes { get; }

    /// <summary>Bits of the significand, the hidden one included.</summary>
    public int Precision { get; }

    public double MaxFinite { get; }

    /// <summary>Largest relative error of one rounding to nearest (normal range): 2^-precision.</summary>
    public double UnitRoundoff => Math.ScaleB(1.0, -Precision);

    /// <summary>Largest absolute error of one rounding in the subnormal range.</summary>
    public double SubnormalRoundoff => Math.ScaleB(1.0, minExponent - Precision);

    /// <summary>Distance between neighbouring values of the format around x.</summary>
    public double Ulp(double x)
    {
        int exponent = x == 0 || !double.IsFinite(x) ? minExponent : Math.Max(Math.ILogB(x), minExponent);
        return Math.ScaleB(1.0, exponent - Precision + 1);
    }

    /// <summary>Round to nearest, ties to even; overflow gives infinity.</summary>
    public double Round(double x)
    {
        if (!double.IsFinite(x) || x == 0)
        {
            return x;
        }
        double ulp = Ulp(x);
        double rounded = Math.Round(x / ulp, MidpointRounding.ToEven) * ulp;
        return Math.Abs(rounded) > MaxFinite ? Math.CopySign(double.PositiveInfinity, x) : rounded;
    }

    /// <summary>The same rounding for values that are floats already (the low-precision comparison needs it in its inner loops).</summary>
    public float Round(float x) => Code switch
    {
        0 => x,
        1 => (float)(Half)x,
        _ => RoundToBFloat16(x),
    };

    /// <summary>A NaN whose payload no arithmetic produces: marks memory that must be written, or must not be touched.</summary>
    public uint Poison => Code switch { 0 or -1 => 0x7FA5_A5A5u, 1 => 0x7DA5u, 3 => 0xA5u, _ => 0x7FA5u };

    public unsafe uint ReadBits(byte* address) => Bytes switch { 4 => *(uint*)address, 2 => *(ushort*)address, _ => *address };

    public unsafe void WriteBits(byte* address, uint bits)
    {
        if (Bytes == 4)
        {
            *(uint*)address = bits;
        }
        else if (Bytes == 2)
        {
            *(ushort*)address = (ushort)bits;
        }
        else
        {
            *address = (byte)bits;
        }
    }

    public double Decode(uint bits) => Code switch
    {
        0 => BitConverter.UInt32BitsToSingle(bits),
        1 => (double)BitConverter.UInt16BitsToHalf((ushort)bits),
        2 => BitConverter.UInt32BitsToSingle(bits << 16),
        _ => bits,
    };

    /// <summary>Bits of a value, rounded to the format.</summary>
    public uint Encode(double x)
    {
        if (Code is 3 or -1)
        {
            return (uint)x;
        }
        double rounded = Round(x);
        return Code switch
        {
            0 => BitConverter.SingleToUInt32Bits((float)rounded),
            1 => BitConverter.HalfToUInt16Bits((Half)rounded),
            _ => BitConverter.SingleToUInt32Bits((float)rounded) >> 16,
        };
    }

    public override string ToString() => Name;

    private static float RoundToBFloat16(float x)
    {
        if (!float.IsFinite(x))
        {
            return x;
        }
        uint bits = BitConverter.SingleToUInt32Bits(x);
        bits += 0x7FFFu + ((bits >> 16) & 1u);
        return BitConverter.UInt32BitsToSingle(bits & 0xFFFF_0000u);
    }
}
