namespace FlashAttention.Tests;

/// <summary>Base of the fixtures that run once per device. Without a GPU the CUDA fixture is reported as skipped, each of its tests counted; with
/// FLASH_ATTENTION_REQUIRE_GPU=1 it fails instead.</summary>
public abstract class DeviceFixture(TestDevice device)
{
    protected TestDevice Device { get; } = device;

    [OneTimeSetUp]
    public void RequireDevice()
    {
        if (Device.IsPresent())
        {
            return;
        }
        string message = $"This machine has no {Device.Name} device {Device.Index}.";
        if (TestSettings.RequireGpu)
        {
            Assert.Fail(message + " FLASH_ATTENTION_REQUIRE_GPU=1 forbids to skip its tests.");
        }
        Assert.Ignore(message);
    }
}
