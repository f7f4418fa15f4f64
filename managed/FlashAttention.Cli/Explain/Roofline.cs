namespace FlashAttention.Cli.Explain;

/// <summary>Peak rates of a device, from its maker's data sheet.</summary>
/// <param name="Name">Product the figures are for.</param>
/// <param name="TensorFlops">Dense fp16/bf16 tensor-core FLOP/s with fp32 accumulation.</param>
/// <param name="ExponentialsPerSecond">Multiprocessors x clock x 16 per clock.</param>
/// <param name="BytesPerSecond">Device memory bandwidth.</param>
internal sealed record DevicePeaks(string Name, double TensorFlops, double ExponentialsPerSecond, double BytesPerSecond);

/// <summary>Shortest times that a device's peak rates allow, in seconds.</summary>
internal sealed record RooflineTimes(double Tensor, double Exponential, double Memory)
{
    /// <summary>No run can be faster than its slowest resource.</summary>
    public double Bound => Math.Max(Tensor, Math.Max(Exponential, Memory));

    public string Limit => Bound == Tensor ? "tensor cores" : Bound == Exponential ? "exponentials" : "device memory";
}

internal static class Roofline
{
    /// <summary>Exponentials per clock and multiprocessor (the special function units), the same on every GPU from compute capability 8.0 on.</summary>
    private const double ExponentialsPerClock = 16;

    /// <summary>A product: part of its name, compute capability, multiprocessors, boost clock in GHz, tensor TFLOP/s, memory GB/s (data sheets).</summary>
    private sealed record Product(string Name, int ComputeCapability, int Multiprocessors, double ClockGhz, double TensorTflops, double MemoryGbs);

    private static readonly Product[] Products =
    [
        new("H200", 90, 132, 1.83, 989.4, 4800),
        new("H100 PCIe", 90, 114, 1.755, 756.4, 2000),
        new("H100", 90, 132, 1.83, 989.4, 3350),
        new("A100", 80, 108, 1.41, 311.9, 2039),
        new("A40", 86, 84, 1.74, 149.7, 696),
        new("A10", 86, 72, 1.695, 125, 600),
        new("RTX 3090", 86, 82, 1.695, 71.2, 936),
        new("L40S", 89, 142, 2.52, 366, 864),
        new("L4", 89, 58, 2.04, 121, 300),
        new("RTX 4090", 89, 128, 2.52, 165.2, 1008),
        new("B200", 100, 148, 1.85, 2250, 8000),
        new("RTX 5090", 120, 170, 2.407, 209.5, 1792),
    ];

    /// <summary>The product whose peaks stand for an assumed compute capability.</summary>
    private static readonly Dictionary<int, string> Usual = new()
    {
        [80] = "A100",
        [86] = "RTX 3090",
        [89] = "RTX 4090",
        [90] = "H100",
        [100] = "B200",
        [120] = "RTX 5090",
    };

    /// <summary>Peaks of a GPU by its product name; null if it is not in the table.</summary>
    public static DevicePeaks? OfProduct(string deviceName)
    {
        // Whole words, so that an L40 is not taken for an L4.
        string padded = $" {deviceName.Replace('-', ' ')} ";
        Product? product = Products.FirstOrDefault(p => p.Name.Split(' ').All(word => padded.Contains($" {word} ", StringComparison.OrdinalIgnoreCase)));
        return product is null ? null : Peaks(product, product.Multiprocessors);
    }

    /// <summary>Peaks of an assumed GPU: those of a usual product of the compute capability, scaled with the number of multiprocessors.</summary>
    public static DevicePeaks? OfComputeCapability(int computeCapability, int? multiprocessors) =>
        Usual.TryGetValue(computeCapability, out string? name) && Products.First(p => p.Name == name) is { } product
            ? Peaks(product, multiprocessors is > 0 ? multiprocessors.Value : product.Multiprocessors)
            : null;

    /// <summary>Times at peak rates.</summary>
    public static RooflineTimes Times(DevicePeaks peaks, double flops, double exponentials, double bytes) =>
        new(flops / peaks.TensorFlops, exponentials / peaks.ExponentialsPerSecond, bytes / peaks.BytesPerSecond);

    private static DevicePeaks Peaks(Product product, int multiprocessors)
    {
        double share = (double)multiprocessors / product.Multiprocessors;
        string name = share == 1 ? product.Name : $"{product.Name} with {multiprocessors} multiprocessors";
        return new DevicePeaks(name, product.TensorTflops * 1e12 * share, multiprocessors * product.ClockGhz * 1e9 * ExponentialsPerClock,
            product.MemoryGbs * 1e9);
    }
}
