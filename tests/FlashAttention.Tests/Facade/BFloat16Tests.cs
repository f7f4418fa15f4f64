using System.Globalization;

namespace FlashAttention.Tests;

/// <summary>BFloat16 against the tests' own arithmetic of the format.</summary>
[TestFixture]
public sealed class BFloat16Tests
{
    private static readonly ElementFormat Format = ElementFormat.BFloat16;

    [Test]
    public void All65536ValuesRoundTrip()
    {
        for (int bits = 0; bits <= ushort.MaxValue; bits++)
        {
            BFloat16 value = BFloat16.FromBits((ushort)bits);
            double expected = Format.Decode((uint)bits);
            Assert.That(value.ToBits(), Is.EqualTo(bits));
            Assert.That((float)value, Is.EqualTo((float)expected));
            Assert.That((double)value, Is.EqualTo(expected));
            Assert.That(BFloat16.IsNaN(value), Is.EqualTo(double.IsNaN(expected)));
            if (double.IsNaN(expected))
            {
                Assert.That(BFloat16.IsNaN((BFloat16)(float)value) && BFloat16.IsNaN((BFloat16)(double)value), $"NaN 0x{bits:x4} must stay NaN");
                continue;
            }
            Assert.That(((BFloat16)(float)value).ToBits(), Is.EqualTo(bits));
            Assert.That(((BFloat16)expected).ToBits(), Is.EqualTo(bits));
        }
    }

    /// <summary>Every midpoint between neighbours, and the numbers next to it: ties to even, one rounding only.</summary>
    [Test]
    public void RoundingIsToNearestEven()
    {
        for (uint bits = 0; bits < 0x7F80; bits++)
        {
            double low = Format.Decode(bits);
            double high = bits == 0x7F7F ? Math.ScaleB(1, 128) : Format.Decode(bits + 1);
            double middle = low + (high - low) / 2;
            foreach (double x in new[] { middle, Math.BitDecrement(middle), Math.BitIncrement(middle), low + (high - low) * 0.3 })
            {
                Assert.That(((BFloat16)x).ToBits(), Is.EqualTo(Format.Encode(x)), $"double {x:R}");
                Assert.That(((BFloat16)(-x)).ToBits(), Is.EqualTo(Format.Encode(x) | 0x8000), $"double {-x:R}");
                float single = (float)x;
                Assert.That(((BFloat16)single).ToBits(), Is.EqualTo(Format.Encode(single)), $"float {single:R}");
            }
        }
    }

    [Test]
    public void SpecialValues()
    {
        Assert.Multiple(() =>
        {
            Assert.That((float)BFloat16.One, Is.EqualTo(1f));
            Assert.That((double)BFloat16.MaxValue, Is.EqualTo(Format.MaxFinite));
            Assert.That((BFloat16)float.MaxValue, Is.EqualTo(BFloat16.PositiveInfinity), "overflow");
            Assert.That((BFloat16)1e300, Is.EqualTo(BFloat16.PositiveInfinity));
            Assert.That((BFloat16)(-1e300), Is.EqualTo(BFloat16.NegativeInfinity));
            Assert.That((BFloat16)(Half)1.5, Is.EqualTo((BFloat16)1.5f));
            Assert.That((Half)(BFloat16)70000f, Is.EqualTo(Half.PositiveInfinity));
            Assert.That(BFloat16.FromBits(0x8000) == BFloat16.Zero, "minus zero equals zero");
            Assert.That(BFloat16.NaN != BFloat16.FromBits(0xFFC0), "NaN differs from itself");
            Assert.That(BFloat16.NaN.Equals(BFloat16.NaN), "but .NET's Equals finds it");
            Assert.That(BFloat16.NaN < BFloat16.One || BFloat16.NaN >= BFloat16.One, Is.False);
            Assert.That(BFloat16.IsNegative(-BFloat16.Zero));
            Assert.That(BFloat16.Abs(BFloat16.NegativeInfinity), Is.EqualTo(BFloat16.PositiveInfinity));
        });
    }

    [Test]
    public void TextAndBulkConversion()
    {
        float[] source = [0f, 1.00390625f, -3.14159f, 1e-40f, float.PositiveInfinity];
        var converted = new BFloat16[source.Length];
        var back = new float[source.Length];
        BFloat16.ConvertFrom(source, converted);
        BFloat16.ConvertTo(converted, back);
        Assert.Multiple(() =>
        {
            Assert.That(converted, Is.EqualTo(Array.ConvertAll(source, x => (BFloat16)x)));
            Assert.That(back, Is.EqualTo(Array.ConvertAll(source, x => (float)Format.Round((double)x))));
            Assert.That(BFloat16.Parse("3.1415926", CultureInfo.InvariantCulture).ToBits(), Is.EqualTo(0x4049));
            Assert.That(BFloat16.TryParse("nonsense", CultureInfo.InvariantCulture, out _), Is.False);
            Assert.That(((BFloat16)2.5f).ToString("F2", CultureInfo.InvariantCulture), Is.EqualTo("2.50"));
            Assert.That(() => BFloat16.ConvertFrom(source, new BFloat16[2]), Throws.ArgumentException);
        });
    }
}
