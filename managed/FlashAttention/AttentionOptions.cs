using FlashAttention.Interop;

namespace FlashAttention;

/// <summary>Where the diagonal of a causal mask lies when the numbers of queries and keys differ.</summary>
public enum Alignment
{
    /// <summary>Query i sees key j iff j ≤ i (PyTorch's is_causal).</summary>
    TopLeft = 1,

    /// <summary>Query i sees key j iff j ≤ i + len_kv − len_q: the last query sees every key (FlashAttention's causal).</summary>
    BottomRight = 2,
}

/// <summary>Which keys a query sees. Immutable; compares by value.</summary>
public abstract record Mask
{
    private static readonly Mask CausalTopLeft = new CausalMask(Alignment.TopLeft);
    private static readonly Mask CausalBottomRight = new CausalMask(Alignment.BottomRight);

    private protected Mask()
    {
    }

    /// <summary>Every query sees every key.</summary>
    public static Mask None { get; } = new NoMask();

    /// <summary>A query sees the keys up to its own position.</summary>
    /// <param name="alignment">Where the diagonal lies when len_q ≠ len_kv; both mean the same when they are equal.</param>
    /// <returns>A shared instance.</returns>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="alignment"/> is no defined value.</exception>
    public static Mask Causal(Alignment alignment) => alignment switch
    {
        Alignment.TopLeft => CausalTopLeft,
        Alignment.BottomRight => CausalBottomRight,
        _ => throw new ArgumentOutOfRangeException(nameof(alignment), alignment, "alignment: expected TopLeft or BottomRight."),
    };

    /// <summary>How the native library names this mask.</summary>
    internal abstract fa_mask ToNative();

    /// <summary>Number of keys that a query sees; they are always the first ones.</summary>
    internal abstract long VisibleKeys(long query, long lengthQ, long lengthKv);
}

/// <summary>Every query sees every key. See <see cref="Mask.None"/>.</summary>
public sealed record NoMask : Mask
{
    internal NoMask()
    {
    }

    /// <inheritdoc/>
    public override string ToString() => "none";

    internal override fa_mask ToNative() => fa_mask.FA_MASK_NONE;

    internal override long VisibleKeys(long query, long lengthQ, long lengthKv) => lengthKv;
}

/// <summary>A query sees the keys up to its own position. See <see cref="Mask.Causal"/>.</summary>
public sealed record CausalMask : Mask
{
    internal CausalMask(Alignment alignment) => Alignment = alignment;

    /// <summary>Where the diagonal lies when len_q ≠ len_kv.</summary>
    public Alignment Alignment { get; }

    /// <inheritdoc/>
    public override string ToString() => Alignment == Alignment.TopLeft ? "causal, top-left" : "causal, bottom-right";

    internal override fa_mask ToNative() => Alignment == Alignment.TopLeft ? fa_mask.FA_MASK_CAUSAL_TOP_LEFT : fa_mask.FA_MASK_CAUSAL_BOTTOM_RIGHT;

    internal override long VisibleKeys(long query, long lengthQ, long lengthKv) =>
        Math.Clamp(query + 1 + (Alignment == Alignment.TopLeft ? 0 : lengthKv - lengthQ), 0, lengthKv);
}

/// <summary>A family of kernels.</summary>
public enum KernelFamily
{
    /// <summary>The planner's choice: the fastest family that computes the problem on the device.</summary>
    Auto = 0,

    /// <summary>The CPU backend.</summary>
    Cpu = 1,

    /// <summary>CUDA, compute capability 8.0 and newer: mma.sync, cp.async.</summary>
    Sm80 = 2,

    /// <summary>CUDA, compute capability 9.0 (Hopper): wgmma, TMA.</summary>
    Sm90 = 3,
}

/// <summary>How to compute. Immutable, compares by value; make it once and reuse it, since making one allocates.</summary>
/// <remarks>A forward pass and its backward pass must be given equal options.</remarks>
public sealed record AttentionOptions
{
    /// <summary>No mask, scale 1/√head_dim, not deterministic, the planner's choice of kernel.</summary>
    public static AttentionOptions Default { get; } = new();

    /// <summary>Which keys a query sees. Default: all.</summary>
    public Mask Mask { get; init; } = Mask.None;

    /// <summary>Factor on q·k: finite and &gt; 0. Default, null: 1/√head_dim.</summary>
    public float? Scale { get; init; }

    /// <summary>Whether the backward pass must give bitwise equal gradients for equal inputs on the same device and library version. Default: false.</summary>
    /// <remarks>The forward pass and the CPU backend are deterministic either way.</remarks>
    public bool Deterministic { get; init; }

    /// <summary>Insist on a family of kernels: the call fails if that family cannot compute the problem. Default: <see cref="KernelFamily.Auto"/>.</summary>
    public KernelFamily Kernel { get; init; }

    /// <summary>The factor on q·k for a head dimension.</summary>
    internal double ScaleFor(long headDim) => Scale ?? 1.0 / Math.Sqrt(headDim);

    internal unsafe fa_attention_options ToNative()
    {
        if (Scale is { } scale && !(float.IsFinite(scale) && scale > 0))
        {
            // 0 means "default" to the native library, so it must not get through as an explicit scale.
            ThrowScale(scale);
        }

        fa_attention_options native = default;
        native.struct_size = (uint)sizeof(fa_attention_options);
        native.mask = Mask is { } mask ? mask.ToNative() : throw new ArgumentException("options.Mask: expected a mask, got null.", "options");
        native.scale = Scale ?? 0;
        native.deterministic = Deterministic ? 1 : 0;
        native.kernel = (fa_kernel)(int)Kernel;
        return native;
    }

    private static void ThrowScale(float scale) =>
        throw new ArgumentException($"options.Scale: expected null or a finite number > 0, got {scale}.", "options");
}
