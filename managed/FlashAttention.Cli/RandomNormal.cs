namespace FlashAttention.Cli;

internal static class RandomNormal
{
    /// <summary>A normally distributed number of mean 0 and variance 1 (Box and Muller, 1958).</summary>
    public static double Next(Random random) => Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble());
}
