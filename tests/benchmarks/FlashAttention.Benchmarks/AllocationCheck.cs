using System.Diagnostics;

namespace FlashAttention.Benchmarks;

/// <summary>The bar of <see cref="CallOverhead"/> without the benchmark harness: 0 bytes of managed memory per call in steady state.</summary>
internal static class AllocationCheck
{
    private const int Calls = 20_000;

    public static int Run()
    {
        using CallOverhead overhead = new();
        overhead.Setup();
        long total = Measure("forward, host spans", overhead.HostForward);
        total += Measure("backward, host spans", overhead.HostBackward);
        total += Measure("forward, device tensors", overhead.DeviceForward);
        total += Measure("backward, device tensors", overhead.DeviceBackward);
        return total == 0 ? 0 : 1;
    }

    private static long Measure(string name, Action call)
    {
        // Long enough for the JIT to have replaced its first, unoptimised code.
        for (long start = Stopwatch.GetTimestamp(); Stopwatch.GetElapsedTime(start) < TimeSpan.FromMilliseconds(500);)
        {
            call();
        }

        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < Calls; ++i)
        {
            call();
        }

        long bytes = GC.GetAllocatedBytesForCurrentThread() - before;
        Console.WriteLine($"{name}: {bytes} bytes allocated in {Calls} calls");
        return bytes;
    }
}
