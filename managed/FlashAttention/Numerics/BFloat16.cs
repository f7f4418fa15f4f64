using System.Diagnostics.CodeAnalysis;
using System.Globalization;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace FlashAttention;

/// <summary>A bfloat16 number: 1 sign bit, 8 exponent bits, 7 stored significand bits; the upper half of an IEEE 754 binary32.</summary>
/// <remarks>A storage format: compute in <see cref="float"/> and round back. Every conversion to it rounds to nearest, ties to even, once. Comparison follows
/// IEEE 754 (NaN equals nothing, −0 equals +0); <see cref="Equals(BFloat16)"/> and <see cref="CompareTo(BFloat16)"/> follow .NET (NaN equals NaN and sorts
/// first). The memory layout is two bytes, so spans of it can be passed to native code as they are.</remarks>
[StructLayout(LayoutKind.Sequential, Size = 2)]
public readonly struct BFloat16 : IEquatable<BFloat16>, IComparable<BFloat16>, IComparable, ISpanFormattable, ISpanParsable<BFloat16>
{
    private const ushort SignMask = 0x8000;
    private const ushort InfinityBits = 0x7F80;
    private const uint QuietBitOfSingle = 0x0040_0000;

    private readonly ushort _bits;

    private BFloat16(ushort bits) => _bits = bits;

    /// <summary>Smallest positive number, 2⁻¹³³ (subnormal).</summary>
    public static BFloat16 Epsilon => new(0x0001);

    /// <summary>Largest finite number, about 3.39·10³⁸.</summary>
    public static BFloat16 MaxValue => new(0x7F7F);

    /// <summary>Smallest finite number, about −3.39·10³⁸.</summary>
    public static BFloat16 MinValue => new(0xFF7F);

    /// <summary>Not a number.</summary>
    public static BFloat16 NaN => new(0xFFC0);

    /// <summary>Negative infinity.</summary>
    public static BFloat16 NegativeInfinity => new(0xFF80);

    /// <summary>Positive infinity.</summary>
    public static BFloat16 PositiveInfinity => new(InfinityBits);

    /// <summary>Zero.</summary>
    public static BFloat16 Zero => default;

    /// <summary>One.</summary>
    public static BFloat16 One => new(0x3F80);

    /// <summary>Makes a number from its bit pattern.</summary>
    /// <param name="bits">Sign, exponent and significand, most significant bit first.</param>
    /// <returns>The number.</returns>
    public static BFloat16 FromBits(ushort bits) => new(bits);

    /// <summary>The bit pattern: sign, exponent and significand, most significant bit first.</summary>
    /// <returns>16 bits.</returns>
    public ushort ToBits() => _bits;

    /// <summary>Widens exactly.</summary>
    /// <param name="value">Number to convert.</param>
    public static implicit operator float(BFloat16 value) => BitConverter.UInt32BitsToSingle((uint)value._bits << 16);

    /// <summary>Widens exactly.</summary>
    /// <param name="value">Number to convert.</param>
    public static implicit operator double(BFloat16 value) => (float)value;

    /// <summary>Rounds to nearest, ties to even; overflow gives infinity; NaN stays NaN (quiet).</summary>
    /// <param name="value">Number to convert.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static explicit operator BFloat16(float value)
    {
        uint bits = BitConverter.SingleToUInt32Bits(value);
        if (float.IsNaN(value))
        {
            // Truncation could turn a NaN whose payload is in the lower half into an infinity.
            return new BFloat16((ushort)((bits | QuietBitOfSingle) >> 16));
        }

        uint roundUp = 0x7FFF + ((bits >> 16) & 1);
        return new BFloat16((ushort)((bits + roundUp) >> 16));
    }

    /// <summary>Rounds to nearest, ties to even, once; overflow gives infinity; NaN stays NaN (quiet).</summary>
    /// <param name="value">Number to convert.</param>
    public static explicit operator BFloat16(double value)
    {
        // Rounding to float first and then again could move a value across a tie. Rounding to odd in between cannot: an inexact float gets its last bit set.
        float single = (float)value;
        if (float.IsFinite(single) && single != value)
        {
            uint bits = BitConverter.SingleToUInt32Bits(single);
            bool roundedAwayFromZero = Math.Abs((double)single) > Math.Abs(value);
            bits -= roundedAwayFromZero ? 1u : 0u;
            single = BitConverter.UInt32BitsToSingle(bits | 1u);
        }

        return (BFloat16)single;
    }

    /// <summary>Rounds to nearest, ties to even (Half has more significand bits).</summary>
    /// <param name="value">Number to convert.</param>
    public static explicit operator BFloat16(Half value) => (BFloat16)(float)value;

    /// <summary>Rounds to nearest, ties to even (Half has a smaller range: overflow gives infinity).</summary>
    /// <param name="value">Number to convert.</param>
    public static explicit operator Half(BFloat16 value) => (Half)(float)value;

    /// <summary>Changes the sign, also of zero and NaN.</summary>
    /// <param name="value">Operand.</param>
    public static BFloat16 operator -(BFloat16 value) => new((ushort)(value._bits ^ SignMask));

    /// <summary>IEEE 754 equality.</summary>
    /// <param name="left">Left operand.</param>
    /// <param name="right">Right operand.</param>
    public static bool operator ==(BFloat16 left, BFloat16 right) => (float)left == (float)right;

    /// <summary>IEEE 754 inequality.</summary>
    /// <param name="left">Left operand.</param>
    /// <param name="right">Right operand.</param>
    public static bool operator !=(BFloat16 left, BFloat16 right) => (float)left != (float)right;

    /// <summary>IEEE 754 less than.</summary>
    /// <param name="left">Left operand.</param>
    /// <param name="right">Right operand.</param>
    public static bool operator <(BFloat16 left, BFloat16 right) => (float)left < (float)right;

    /// <summary>IEEE 754 greater than.</summary>
    /// <param name="left">Left operand.</param>
    /// <param name="right">Right operand.</param>
    public static bool operator >(BFloat16 left, BFloat16 right) => (float)left > (float)right;

    /// <summary>IEEE 754 less than or equal.</summary>
    /// <param name="left">Left operand.</param>
    /// <param name="right">Right operand.</param>
    public static bool operator <=(BFloat16 left, BFloat16 right) => (float)left <= (float)right;

    /// <summary>IEEE 754 greater than or equal.</summary>
    /// <param name="left">Left operand.</param>
    /// <param name="right">Right operand.</param>
    public static bool operator >=(BFloat16 left, BFloat16 right) => (float)left >= (float)right;

    /// <summary>Tells whether a number is NaN.</summary>
    /// <param name="value">Number to test.</param>
    /// <returns>True for every NaN.</returns>
    public static bool IsNaN(BFloat16 value) => (value._bits & ~SignMask) > InfinityBits;

    /// <summary>Tells whether a number is +∞ or −∞.</summary>
    /// <param name="value">Number to test.</param>
    /// <returns>True for the two infinities.</returns>
    public static bool IsInfinity(BFloat16 value) => (value._bits & ~SignMask) == InfinityBits;

    /// <summary>Tells whether a number is neither infinite nor NaN.</summary>
    /// <param name="value">Number to test.</param>
    /// <returns>True for finite numbers.</returns>
    public static bool IsFinite(BFloat16 value) => (value._bits & ~SignMask) < InfinityBits;

    /// <summary>Tells whether the sign bit is set (true also for −0 and a negative NaN).</summary>
    /// <param name="value">Number to test.</param>
    /// <returns>The sign bit.</returns>
    public static bool IsNegative(BFloat16 value) => (value._bits & SignMask) != 0;

    /// <summary>Clears the sign bit.</summary>
    /// <param name="value">Operand.</param>
    /// <returns>|value|.</returns>
    public static BFloat16 Abs(BFloat16 value) => new((ushort)(value._bits & ~SignMask));

    /// <summary>Rounds many numbers, as the conversion operator does one.</summary>
    /// <param name="source">Numbers to convert.</param>
    /// <param name="destination">At least as long as <paramref name="source"/>.</param>
    /// <exception cref="ArgumentException"><paramref name="destination"/> is shorter than <paramref name="source"/>.</exception>
    public static void ConvertFrom(ReadOnlySpan<float> source, Span<BFloat16> destination)
    {
        Ensure.AtLeast(destination.Length, source.Length, nameof(destination));
        for (int i = 0; i < source.Length; ++i)
        {
            destination[i] = (BFloat16)source[i];
        }
    }

    /// <summary>Widens many numbers exactly.</summary>
    /// <param name="source">Numbers to convert.</param>
    /// <param name="destination">At least as long as <paramref name="source"/>.</param>
    /// <exception cref="ArgumentException"><paramref name="destination"/> is shorter than <paramref name="source"/>.</exception>
    public static void ConvertTo(ReadOnlySpan<BFloat16> source, Span<float> destination)
    {
        Ensure.AtLeast(destination.Length, source.Length, nameof(destination));
        for (int i = 0; i < source.Length; ++i)
        {
            destination[i] = source[i];
        }
    }

    /// <summary>Parses a number and rounds it to nearest, ties to even.</summary>
    /// <param name="s">Text.</param>
    /// <param name="provider">Culture; null for the current one.</param>
    /// <returns>The number.</returns>
    /// <exception cref="FormatException">The text is no number.</exception>
    public static BFloat16 Parse(string s, IFormatProvider? provider) => (BFloat16)double.Parse(s, provider);

    /// <inheritdoc cref="Parse(string, IFormatProvider?)"/>
    public static BFloat16 Parse(ReadOnlySpan<char> s, IFormatProvider? provider) => (BFloat16)double.Parse(s, provider);

    /// <summary>Parses a number and rounds it to nearest, ties to even.</summary>
    /// <param name="s">Text.</param>
    /// <param name="provider">Culture; null for the current one.</param>
    /// <param name="result">The number; zero on failure.</param>
    /// <returns>False if the text is no number.</returns>
    public static bool TryParse([NotNullWhen(true)] string? s, IFormatProvider? provider, out BFloat16 result) => TryParse(s.AsSpan(), provider, out result);

    /// <inheritdoc cref="TryParse(string?, IFormatProvider?, out BFloat16)"/>
    public static bool TryParse(ReadOnlySpan<char> s, IFormatProvider? provider, out BFloat16 result)
    {
        bool parsed = double.TryParse(s, NumberStyles.Float | NumberStyles.AllowThousands, provider, out double value);
        result = parsed ? (BFloat16)value : default;
        return parsed;
    }

    /// <inheritdoc/>
    public bool Equals(BFloat16 other) => this == other || (IsNaN(this) && IsNaN(other));

    /// <inheritdoc/>
    public override bool Equals([NotNullWhen(true)] object? obj) => obj is BFloat16 other && Equals(other);

    /// <inheritdoc/>
    public override int GetHashCode() => ((float)this).GetHashCode();

    /// <inheritdoc/>
    public int CompareTo(BFloat16 other) => ((float)this).CompareTo((float)other);

    /// <inheritdoc/>
    public int CompareTo(object? obj) => obj switch
    {
        null => 1,
        BFloat16 other => CompareTo(other),
        _ => throw new ArgumentException($"obj: expected a BFloat16, got {obj.GetType()}.", nameof(obj)),
    };

    /// <summary>Text of the number as <see cref="float"/> writes it.</summary>
    /// <returns>Shortest text that gives the same float back, in the current culture.</returns>
    public override string ToString() => ((float)this).ToString();

    /// <inheritdoc/>
    public string ToString(string? format, IFormatProvider? formatProvider) => ((float)this).ToString(format, formatProvider);

    /// <inheritdoc/>
    public bool TryFormat(Span<char> destination, out int charsWritten, ReadOnlySpan<char> format, IFormatProvider? provider) =>
        ((float)this).TryFormat(destination, out charsWritten, format, provider);
}
