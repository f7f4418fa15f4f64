namespace FlashAttention.Tests;

/// <summary>Values of fa_mask.</summary>
public enum MaskKind
{
    None = 0,
    TopLeft = 1,
    BottomRight = 2,
}

/// <summary>How the tensors of a case lie in memory.</summary>
public enum Layout
{
    /// <summary>(batch, sequence, heads, head_dim), dense.</summary>
    Bshd,

    /// <summary>(batch, heads, sequence, head_dim), dense.</summary>
    Bhsd,

    /// <summary>Q, K and V are slices of rows of one buffer (batch, sequence, heads_q + 2 heads_kv, head_dim); likewise their gradients.</summary>
    Packed,

    /// <summary>Rows padded to 16-byte multiples with extra room per head, row and batch; the room holds NaN.</summary>
    Padded,

    /// <summary>Rows padded by an odd number of elements and a base address aligned to the element only.</summary>
    OddPadded,

    /// <summary>K has batch stride 0 and V has head stride 0 (broadcast inputs); outputs are dense.</summary>
    Broadcast,
}

/// <summary>What the input tensors hold.</summary>
public enum InputKind
{
    /// <summary>Standard normal with a different mean per head.</summary>
    Normal,

    /// <summary>Logits of about ±10⁴.</summary>
    LargeLogits,

    /// <summary>One query row holds NaN: its own row becomes NaN.</summary>
    NanQuery,

    /// <summary>The last key and value row hold NaN: only rows that see it become NaN.</summary>
    NanKey,

    /// <summary>One value element is infinite: that column becomes infinite in rows that see it.</summary>
    InfiniteValue,

    /// <summary>Every key and value that no query sees holds NaN: nothing becomes NaN.</summary>
    HiddenNan,
}

/// <summary>One attention problem with its memory layout, inputs and options. Its text names it completely, the seed included.</summary>
public sealed record ProblemCase
{
    public required ElementFormat Format { get; init; }
    public int Batch { get; init; } = 1;
    public int HeadsQ { get; init; } = 1;
    public int HeadsKv { get; init; } = 1;
    public required int LenQ { get; init; }
    public required int LenKv { get; init; }
    public required int HeadDim { get; init; }
    public required int HeadDimV { get; init; }
    public MaskKind Mask { get; init; }
    public Layout Layout { get; init; }
    public InputKind Inputs { get; init; }

    /// <summary>0: the default 1/sqrt(head_dim).</summary>
    public float Scale { get; init; }
    public bool Deterministic { get; init; }
    public bool GradLse { get; init; }
    public int Seed { get; init; } = 1;
    public Variants Variants { get; init; } = Variants.None;

    /// <summary>Seed and offset of dropout: numbers with high bits set.</summary>
    public ulong DropoutSeed => 0xFEDC_BA98_0000_0001ul + (ulong)Seed;
    public uint DropoutOffset => 0x8000_0000u + (uint)Seed;

    public ElementFormat BiasFormat => Variants.BiasFloat32 ? ElementFormat.Float32 : Format;

    public int Group => HeadsQ / HeadsKv;

    public double EffectiveScale => Scale == 0 ? 1.0 / Math.Sqrt(HeadDim) : Scale;

    public long[] SizesQ => [Batch, LenQ, HeadsQ, HeadDim];
    public long[] SizesK => [Batch, LenKv, HeadsKv, HeadDim];
    public long[] SizesV => [Batch, LenKv, HeadsKv, HeadDimV];
    public long[] SizesO => [Batch, LenQ, HeadsQ, HeadDimV];
    public int LseCount => Batch * HeadsQ * LenQ;

    /// <summary>Number of keys that query i sees without variants: they are the first ones under every mask.</summary>
    public int VisibleKeys(int i) => Mask switch
    {
        MaskKind.None => LenKv,
        MaskKind.TopLeft => Math.Min(i + 1, LenKv),
        _ => Math.Clamp(i + LenKv - LenQ + 1, 0, LenKv),
    };

    /// <summary>True if CUDA kernels must compute the case: 16-bit elements, head dims that are multiples of 8, up to 512, with variants up to 256.</summary>
    public bool FitsTensorCores =>
        Format.Bytes == 2 && HeadDim % 8 == 0 && HeadDimV % 8 == 0 && Math.Max(HeadDim, HeadDimV) <= (Variants == Variants.None ? 512 : 256);

    public override string ToString()
    {
        string mask = Mask switch { MaskKind.None => "full", MaskKind.TopLeft => "causal-tl", _ => "causal-br" };
        return $"{Format} b{Batch} h{HeadsQ}/{HeadsKv} q{LenQ} k{LenKv} d{HeadDim}/{HeadDimV} {mask} {Layout} {Inputs}"
            + (Scale == 0 ? "" : FormattableString.Invariant($" scale{Scale}"))
            + (Deterministic ? " det" : "") + (GradLse ? " glse" : "") + Variants + $" seed{Seed}";
    }
}
