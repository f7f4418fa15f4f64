namespace FlashAttention.Tests;

/// <summary>The tests' own rounding, which everything else relies on.</summary>
[TestFixture]
public sealed class ElementFormatTests
{
    [Test]
    public void EveryHalfValueRoundTrips() => AssertRoundTrip(ElementFormat.Float16);

    [Test]
    public void EveryBFloat16ValueRoundTrips() => AssertRoundTrip(ElementFormat.BFloat16);

    [Test]
    public void TiesGoToEven()
    {
        Assert.Multiple(() =>
        {
            Assert.That(ElementFormat.BFloat16.Round(1 + 1.0 / 256), Is.EqualTo(1));
            Assert.That(ElementFormat.BFloat16.Round(1 + 3.0 / 256), Is.EqualTo(1 + 4.0 / 256));
            Assert.That(ElementFormat.Float16.Round(1 + 1.0 / 2048), Is.EqualTo(1));
            Assert.That(ElementFormat.Float16.Round(65520), Is.EqualTo(double.PositiveInfinity));
            Assert.That(ElementFormat.Float16.Round(65519), Is.EqualTo(65504));
            Assert.That(ElementFormat.Float32.Round(1 + 1.0 / (1 << 25)), Is.EqualTo(1));
        });
    }

    [Test]
    public void FastRoundingAgrees()
    {
        var random = new GaussianSource(3);
        for (int i = 0; i < 20000; i++)
        {
            float x = (float)(random.Next() * Math.Pow(10, 6 * random.NextUniform() - 4));
            Assert.That(ElementFormat.Float16.Round(x), Is.EqualTo(ElementFormat.Float16.Round((double)x)));
            Assert.That(ElementFormat.BFloat16.Round(x), Is.EqualTo(ElementFormat.BFloat16.Round((double)x)));
        }
    }

    private static void AssertRoundTrip(ElementFormat format)
    {
        for (uint bits = 0; bits <= 0xFFFF; bits++)
        {
            double value = format.Decode(bits);
            if (!double.IsNaN(value))
            {
                Assert.That(format.Encode(value), Is.EqualTo(bits));
            }
        }
    }
}
