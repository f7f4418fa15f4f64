using FlashAttention.Interop;

namespace FlashAttention;

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
/// <remarks>
/// <para>A forward pass and its backward pass must be given equal options. What they refer to must hold the same contents.</para>
/// <para>Each score s = scale · q·k becomes softcap · tanh(s / softcap), then the bias is added, then ALiBi taken off. A query sees a key iff the mask,
/// <see cref="Visible"/>, <see cref="BlockMask"/> and <see cref="Sequences"/> all show it. Tensors and vectors that options refer to lie on the device of the
/// call; for calls on host spans that is host memory. Thread-safe, as long as nothing changes their contents.</para>
/// </remarks>
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

    /// <summary>Bound of the scores: softcap · tanh(s / softcap), finite and &gt; 0, as in Gemma 2. Applied before bias and ALiBi. Default, null:
    /// none.</summary>
    public float? Softcap { get; init; }

    /// <summary>Linear biases by distance. Default, null: none.</summary>
    public Alibi? Alibi { get; init; }

    /// <summary>A number added to each score. Default, null: none.</summary>
    public Bias? Bias { get; init; }

    /// <summary>A further key without value for each head. Default, null: none.</summary>
    public Sinks? Sinks { get; init; }

    /// <summary>A boolean mask, pair by pair or key by key. Default, null: all.</summary>
    public VisibleMask? Visible { get; init; }

    /// <summary>A block-sparse mask. Default, null: all.</summary>
    public BlockMask? BlockMask { get; init; }

    /// <summary>Dropout of probabilities. Default, null: none.</summary>
    public Dropout? Dropout { get; init; }

    /// <summary>Lengths of the sequences. Default, null: every batch entry is a sequence of full length.</summary>
    public Sequences? Sequences { get; init; }

    /// <summary>Whether some option refers to memory.</summary>
    internal bool HasMemory =>
        Alibi is not null || Bias is not null || Sinks is not null || Visible is not null || BlockMask is not null || Sequences is not null;

    /// <summary>The factor on q·k for a head dimension.</summary>
    internal double ScaleFor(long headDim) => Scale ?? 1.0 / Math.Sqrt(headDim);

    /// <summary>Fills what refers to no memory.</summary>
    internal unsafe void CopyScalarsTo(fa_attention_options* native)
    {
        // 0 means "default" or "none" to the native library, so it must not get through as an explicit value.
        CheckPositive(Scale, nameof(Scale));
        CheckPositive(Softcap, nameof(Softcap));
        native->struct_size = (uint)sizeof(fa_attention_options);
        (Mask ?? throw new ArgumentException("options.Mask: expected a mask, got null.", "options")).Terms.CopyTo(native);
        native->scale = Scale ?? 0;
        native->deterministic = Deterministic ? 1 : 0;
        native->kernel = (fa_kernel)(int)Kernel;
        native->softcap = Softcap ?? 0;
        if (Dropout is { } dropout)
        {
            native->dropout = dropout.Rate;
            native->dropout_seed = dropout.Seed;
            native->dropout_offset = dropout.Offset;
        }
    }

    private static void CheckPositive(float? value, string name)
    {
        if (value is { } number && !(float.IsFinite(number) && number > 0))
        {
            ThrowNotPositive(number, name);
        }
    }

    private static void ThrowNotPositive(float value, string name) =>
        throw new ArgumentException($"options.{name}: expected null or a finite number > 0, got {value}.", "options");
}
