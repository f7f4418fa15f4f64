using System.Globalization;

namespace FlashAttention.Cli.Options;

/// <summary>From option text to values; an unknown word is an error that lists the known ones.</summary>
internal static class OptionParsing
{
    public static Device ParseDevice(string text)
    {
        string[] parts = text.Split(':');
        bool hasIndex = parts.Length == 2;
        int index = 0;
        if (parts.Length > 2 || (hasIndex && !int.TryParse(parts[1], NumberStyles.None, CultureInfo.InvariantCulture, out index)))
        {
            throw Unknown("--device", text, "cpu, cuda, cuda:0, cuda:1 ...");
        }
        return parts[0] switch
        {
            "cpu" when index == 0 => Device.Cpu,
            "cuda" => Device.Cuda(index),
            _ => throw Unknown("--device", text, "cpu, cuda, cuda:0, cuda:1 ..."),
        };
    }

    /// <summary>The device an option names, checked to exist; sets the CPU threads if asked to.</summary>
    public static Device UseDevice(DeviceOptions options)
    {
        Device device = ParseDevice(options.Device);
        if (options.Threads is { } threads)
        {
            if (threads is < 1 or > 1024)
            {
                throw CliException.Usage($"--threads: expected 1 to 1024, got {threads}");
            }
            FlashAttentionNative.CpuThreadCount = threads;
        }
        RequireDevice(device);
        return device;
    }

    public static void RequireDevice(Device device)
    {
        if (device.Type == DeviceType.Cuda)
        {
            int count = Device.Count(DeviceType.Cuda);
            if (device.Index >= count)
            {
                string have = count == 0 ? "this machine has no usable CUDA device" : $"this machine has CUDA devices 0 to {count - 1}";
                throw new CliException(ExitCode.DeviceUnavailable, $"device {device}: {have} ('flashattn doctor' says more)");
            }
        }
    }

    public static DType ParseDType(string text) => text switch
    {
        "float32" or "f32" or "fp32" => DType.Float32,
        "float16" or "f16" or "fp16" => DType.Float16,
        "bfloat16" or "bf16" => DType.BFloat16,
        _ => throw Unknown("--dtype", text, "float32, float16, bfloat16"),
    };

    public static string Name(DType type) => type switch
    {
        DType.Float32 => "float32",
        DType.Float16 => "float16",
        _ => "bfloat16",
    };

    public static Mask ParseMask(string text) => text switch
    {
        "none" => Mask.None,
        "causal" or "causal-bottom-right" => Mask.Causal(Alignment.BottomRight),
        "causal-top-left" => Mask.Causal(Alignment.TopLeft),
        _ => throw Unknown("--mask", text, "none, causal, causal-top-left, causal-bottom-right"),
    };

    public static string Name(Mask mask) => mask switch
    {
        CausalMask { Alignment: Alignment.TopLeft } => "causal-top-left",
        CausalMask => "causal-bottom-right",
        _ => "none",
    };

    /// <summary>The mask of --causal and --causal-alignment.</summary>
    public static Mask ParseCausal(bool causal, string? alignment) => alignment switch
    {
        null => causal ? Mask.Causal(Alignment.BottomRight) : Mask.None,
        "bottom-right" => Mask.Causal(Alignment.BottomRight),
        "top-left" => Mask.Causal(Alignment.TopLeft),
        _ => throw Unknown("--causal-alignment", alignment, "bottom-right, top-left"),
    };

    public static KernelFamily ParseKernel(string text) => text switch
    {
        "auto" => KernelFamily.Auto,
        "cpu" => KernelFamily.Cpu,
        "sm80" => KernelFamily.Sm80,
        "sm90" => KernelFamily.Sm90,
        _ => throw Unknown("--kernel", text, "auto, cpu, sm80, sm90"),
    };

    /// <summary>Whether forward and backward are wanted.</summary>
    public static (bool Forward, bool Backward) ParsePass(string text) => text switch
    {
        "forward" => (true, false),
        "backward" => (false, true),
        "both" => (true, true),
        _ => throw Unknown("--pass", text, "forward, backward, both"),
    };

    public static float? CheckScale(float? scale) =>
        scale is null || (float.IsFinite(scale.Value) && scale > 0) ? scale
            : throw CliException.Usage($"--scale: expected a finite number > 0, got {scale.Value.ToString(CultureInfo.InvariantCulture)}");

    public static long CheckRange(string option, long value, long minimum, long maximum) =>
        value >= minimum && value <= maximum ? value : throw CliException.Usage($"{option}: expected {minimum} to {maximum}, got {value}");

    /// <summary>Checks --heads and --kv-heads together.</summary>
    public static void CheckHeads(long heads, long kvHeads, long maximum)
    {
        _ = CheckRange("--heads", heads, 1, maximum);
        _ = CheckRange("--kv-heads", kvHeads, 1, maximum);
        if (heads % kvHeads != 0)
        {
            throw CliException.Usage($"--heads: expected a multiple of --kv-heads ({kvHeads}), got {heads}");
        }
    }

    private static CliException Unknown(string option, string text, string known) => CliException.Usage($"{option}: expected one of {known}; got '{text}'");
}
