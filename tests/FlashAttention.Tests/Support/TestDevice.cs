using FlashAttention.Interop;

namespace FlashAttention.Tests;

/// <summary>A device that the suite runs on; the parameter of every device fixture.</summary>
public sealed record TestDevice(string Name, int Type, int Index)
{
    public static readonly TestDevice Cpu = new("cpu", 0, 0);
    public static readonly TestDevice Cuda = new("cuda", 1, 0);

    public bool IsCuda => Type == 1;

    internal fa_device Handle => new() { type = (fa_device_type)Type, index = Index };

    /// <summary>The devices that FLASH_ATTENTION_TEST_DEVICES asks for; source of the device fixtures.</summary>
    public static IEnumerable<TestDevice> Wanted()
    {
        if (TestSettings.Wants("cpu"))
        {
            yield return Cpu;
        }
        if (TestSettings.Wants("cuda"))
        {
            yield return Cuda;
        }
    }

    /// <summary>True if the machine has this device.</summary>
    internal unsafe bool IsPresent()
    {
        int count = 0;
        NativeCall.Check(NativeMethods.fa_device_count((fa_device_type)Type, &count));
        return Index < count;
    }

    public override string ToString() => Name;
}
