using System.Collections.Concurrent;

namespace FlashAttention.Tests;

/// <summary>Cases of the variant table that a device refuses because no kernel of it computes a variant: skipped, counted and listed.</summary>
internal static class Unsupported
{
    private static readonly ConcurrentDictionary<string, int> Counts = new();

    /// <summary>Counts a refusal that was as it must be, and skips the test.</summary>
    public static void Count(TestDevice device, string variant)
    {
        Counts.AddOrUpdate($"{device}: {variant}", 1, (_, count) => count + 1);
        Assert.Ignore($"{device} does not compute {variant}; the refusal says so and wrote nothing.");
    }

    /// <summary>One line for each variant and pass that a device refused.</summary>
    public static string[] List(TestDevice device) =>
        Counts.Where(entry => entry.Key.StartsWith(device.Name + ":", StringComparison.Ordinal))
            .Select(entry => $"{entry.Key}: {entry.Value} cases").Order().ToArray();
}
