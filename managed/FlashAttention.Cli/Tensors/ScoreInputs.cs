using System.Globalization;

namespace FlashAttention.Cli.Tensors;

/// <summary>What modifies the scores of a problem and needs memory, in host memory.</summary>
internal sealed record ScoreInputs
{
    public static ScoreInputs None { get; } = new();

    /// <summary>ALiBi slopes: heads numbers, or batch * heads.</summary>
    public float[]? Slopes { get; init; }

    public bool SlopesPerBatch { get; init; }

    public float[]? Sinks { get; init; }

    public HostPairs? Bias { get; init; }

    public HostPairs? Visible { get; init; }

    public HostPairs? Blocks { get; init; }

    public (int Q, int Kv) BlockSize { get; init; }

    /// <summary>Lengths of packed sequences of q and of k and v; null if there are none.</summary>
    public (int[] Q, int[] Kv)? Packed { get; init; }

    /// <summary>Used positions of each sequence.</summary>
    public int[]? UsedQ { get; init; }

    public int[]? UsedKv { get; init; }

    public bool LeftPadded { get; init; }

    /// <summary>Which gradients the backward pass gives besides those of q, k and v.</summary>
    public bool WantGradBias { get; init; }

    public bool WantGradSinks { get; init; }

    /// <summary>Options that refer to this host memory.</summary>
    public AttentionOptions OnHost(AttentionOptions scalars) => Apply(scalars, values => values, numbers => numbers, pairs => pairs.OnHost);

    /// <summary>Options that refer to copies on a device.</summary>
    /// <param name="device">Where; the CPU uses host memory as it is.</param>
    /// <param name="scalars">What needs no memory.</param>
    /// <param name="owned">Receives the copies.</param>
    public AttentionOptions On(Device device, AttentionOptions scalars, List<IDisposable> owned)
    {
        return device.Type == DeviceType.Cpu ? OnHost(scalars) : Apply(scalars, Copy, Copy, pairs =>
        {
            (AttentionTensor tensor, Action upload, _) = pairs.On(device, owned);
            upload();
            return tensor;
        });

        AttentionVector<T> Copy<T>(T[] values)
            where T : unmanaged
        {
            DeviceArray<T> array = new(device, values);
            owned.Add(array);
            return array;
        }
    }

    private AttentionOptions Apply(AttentionOptions scalars, Func<float[], AttentionVector<float>> floats, Func<int[], AttentionVector<int>> integers,
        Func<HostPairs, AttentionTensor> pairs) => scalars with
        {
            Alibi = Slopes is null ? null : new Alibi(floats(Slopes)) { PerBatch = SlopesPerBatch },
            Sinks = Sinks is null ? null : new Sinks(floats(Sinks)),
            Bias = Bias is null ? null : new Bias(pairs(Bias)),
            Visible = Visible is null ? null : new VisibleMask(pairs(Visible)),
            BlockMask = Blocks is null ? null : new BlockMask(pairs(Blocks), BlockSize.Q, BlockSize.Kv),
            Sequences = MakeSequences(integers),
        };

    private Sequences? MakeSequences(Func<int[], AttentionVector<int>> integers)
    {
        AttentionVector<int>? usedQ = UsedQ is null ? null : integers(UsedQ), usedKv = UsedKv is null ? null : integers(UsedKv);
        if (Packed is { } packed)
        {
            return Sequences.Packed(integers(Offsets(packed.Q)), integers(Offsets(packed.Kv)), packed.Q.Max(), packed.Kv.Max()) with
            {
                UsedQ = usedQ,
                UsedKv = usedKv,
                LeftPadded = LeftPadded,
            };
        }
        return usedQ is null && usedKv is null ? null : Sequences.Padded(usedQ, usedKv) with { LeftPadded = LeftPadded };
    }

    private static int[] Offsets(int[] lengths)
    {
        int[] offsets = new int[lengths.Length + 1];
        for (int i = 0; i < lengths.Length; i++)
        {
            offsets[i + 1] = checked(offsets[i] + lengths[i]);
        }
        return offsets;
    }
}

/// <summary>Options in words.</summary>
internal static class ScoreText
{
    /// <summary>Everything about the scores except mask and scale, e.g. "softcap 30, ALiBi"; empty if there is nothing.</summary>
    public static string Describe(AttentionOptions o)
    {
        string?[] parts =
        [
            o.Softcap is { } softcap ? $"softcap {softcap.ToString(CultureInfo.InvariantCulture)}" : null,
            o.Alibi is null ? null : "ALiBi",
            o.Bias is null ? null : "bias",
            o.Visible is null ? null : "visible",
            o.BlockMask is { } blocks ? $"blocks of {blocks.BlockQ}x{blocks.BlockKv}" : null,
            o.Sinks is null ? null : "sinks",
            o.Dropout is { } dropout ? $"dropout {dropout.Rate.ToString("0.###", CultureInfo.InvariantCulture)}" : null,
            o.Sequences is { } sequences ? $"{sequences.Count} {(sequences.OffsetsQ is null ? "padded" : "packed")} sequences" : null,
        ];
        return string.Join(", ", parts.OfType<string>());
    }
}
