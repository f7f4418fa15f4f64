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
        Device device = ParseDevice(options.Device ?? "cpu");
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
        _ => mask.ToString(),
    };

    /// <summary>The mask of --causal and --causal-alignment.</summary>
    public static Mask ParseCausal(bool causal, string? alignment) => alignment switch
    {
        null => causal ? Mask.Causal(Alignment.BottomRight) : Mask.None,
        "bottom-right" => Mask.Causal(Alignment.BottomRight),
        "top-left" => Mask.Causal(Alignment.TopLeft),
        _ => throw Unknown("--causal-alignment", alignment, "bottom-right, top-left"),
    };

    /// <summary>A mask narrowed by --window and --chunk.</summary>
    public static Mask Narrow(Mask mask, ScoreOptions o)
    {
        Alignment? given = o.Alignment switch
        {
            null => null,
            "bottom-right" => Alignment.BottomRight,
            "top-left" => Alignment.TopLeft,
            _ => throw Unknown("--alignment", o.Alignment, "bottom-right, top-left"),
        };
        if (given is not null && mask is CausalMask causal && causal.Alignment != given)
        {
            throw CliException.Usage($"--alignment: expected that of the mask, which is {Name(mask)}; got '{o.Alignment}'");
        }
        if (given is not null && o.Window is null && o.Chunk is null)
        {
            throw CliException.Usage("--alignment is given without --window and --chunk");
        }
        Alignment alignment = given ?? (mask as CausalMask)?.Alignment ?? Alignment.BottomRight;
        if (o.Window is not null)
        {
            string[] sides = o.Window.Split(',');
            if (sides.Length > 2)
            {
                throw CliException.Usage($"--window: expected LEFT or LEFT,RIGHT; got '{o.Window}'");
            }
            mask &= Mask.Window(Keys(sides[0]), sides.Length == 2 ? Keys(sides[1]) : null, alignment);
        }
        return o.Chunk is { } size ? mask & Mask.Chunk(CheckRange("--chunk", size, 1, long.MaxValue), alignment) : mask;

        long? Keys(string text) => text == "all" ? null
            : long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out long keys) ? keys
            : throw CliException.Usage($"--window: expected whole numbers of at least 0 or 'all', with a comma between; got '{o.Window}'");
    }

    /// <summary>Softcap and dropout added to options.</summary>
    public static AttentionOptions WithScores(AttentionOptions attention, ScoreOptions o)
    {
        if (o.DropoutSeed is not null && o.Dropout is null)
        {
            throw CliException.Usage("--dropout-seed is given without --dropout");
        }
        if (o.Dropout is { } rate && !(rate is >= 0 and < 1))
        {
            throw CliException.Usage($"--dropout: expected at least 0 and less than 1, got {rate.ToString(CultureInfo.InvariantCulture)}");
        }
        return attention with
        {
            Softcap = CheckPositive("--softcap", o.Softcap),
            Dropout = o.Dropout is > 0 ? new Dropout(o.Dropout.Value, unchecked((ulong)(o.DropoutSeed ?? 0))) : null,
        };
    }

    /// <summary>Lengths of packed sequences of q and of k and v; null if none are given.</summary>
    public static (int[] Q, int[] Kv)? ParsePacked(ScoreOptions o)
    {
        int[] q = [.. o.SequenceLengths], kv = [.. o.SequenceLengthsKv];
        if (q.Length == 0 && kv.Length > 0)
        {
            throw CliException.Usage("--seq-lens-kv is given without --seq-lens");
        }
        if (kv.Length > 0 && kv.Length != q.Length)
        {
            throw CliException.Usage($"--seq-lens-kv: expected {q.Length} lengths like --seq-lens, got {kv.Length}");
        }
        foreach ((string option, int[] lengths) in new[] { ("--seq-lens", q), ("--seq-lens-kv", kv) })
        {
            foreach (int length in lengths)
            {
                _ = CheckRange(option, length, 0, int.MaxValue);
            }
            if (lengths.Sum(length => (long)length) > int.MaxValue)
            {
                throw CliException.Usage($"{option}: expected at most {int.MaxValue} positions in all, got {lengths.Sum(length => (long)length)}");
            }
        }
        return q.Length == 0 ? null : (q, kv.Length == 0 ? q : kv);
    }

    /// <summary>Two multiples of 16.</summary>
    public static (int Q, int Kv) ParseBlockSize(string text) =>
        text.Split(',') is [string q, string kv] && Side(q) is { } sizeQ && Side(kv) is { } sizeKv ? (sizeQ, sizeKv)
            : throw CliException.Usage($"--block-size: expected two positive multiples of 16 with a comma between, got '{text}'");

    /// <summary>Names from a list; another name is an error.</summary>
    public static string[] ParseNames(string option, IEnumerable<string> given, string[] known)
    {
        string[] names = [.. given.Distinct()];
        return names.FirstOrDefault(name => !known.Contains(name)) is { } other ? throw Unknown(option, other, string.Join(", ", known)) : names;
    }

    private static int? Side(string text) =>
        int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int size) && size > 0 && size % 16 == 0 ? size : null;

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

    public static float? CheckPositive(string option, float? value) =>
        value is null || (float.IsFinite(value.Value) && value > 0) ? value
            : throw CliException.Usage($"{option}: expected a finite number > 0, got {value.Value.ToString(CultureInfo.InvariantCulture)}");

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
