namespace FlashAttention.Tests;

/// <summary>What the environment asks of the suite.</summary>
internal static class TestSettings
{
    /// <summary>FLASH_ATTENTION_REQUIRE_GPU=1: a test that would be skipped for want of a GPU fails instead.</summary>
    public static bool RequireGpu { get; } = Environment.GetEnvironmentVariable("FLASH_ATTENTION_REQUIRE_GPU") == "1";

    /// <summary>FLASH_ATTENTION_TEST_SUBSET=smoke: few, small cases, for runs that are slow by nature (compute-sanitizer, mutation check).</summary>
    public static bool Smoke { get; } = Subset() == "smoke";

    /// <summary>FLASH_ATTENTION_TEST_DEVICES=cpu|cuda|all (default all).</summary>
    public static bool Wants(string device)
    {
        string wanted = Environment.GetEnvironmentVariable("FLASH_ATTENTION_TEST_DEVICES") ?? "all";
        return wanted switch
        {
            "all" => true,
            "cpu" or "cuda" => wanted == device,
            _ => throw new InvalidOperationException($"FLASH_ATTENTION_TEST_DEVICES: expected cpu, cuda or all, got '{wanted}'."),
        };
    }

    private static string Subset()
    {
        string subset = Environment.GetEnvironmentVariable("FLASH_ATTENTION_TEST_SUBSET") ?? "";
        return subset is "" or "all" or "smoke"
            ? subset
            : throw new InvalidOperationException($"FLASH_ATTENTION_TEST_SUBSET: expected smoke or all, got '{subset}'.");
    }
}
