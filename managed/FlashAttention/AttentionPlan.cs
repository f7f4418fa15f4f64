using FlashAttention.Interop;

namespace FlashAttention;

/// <summary>Direction of a computation.</summary>
public enum AttentionPass
{
    /// <summary>From q, k, v to o and lse.</summary>
    Forward = 0,

    /// <summary>From q, k, v, o, lse and the gradient of o to the gradients of q, k and v.</summary>
    Backward = 1,
}

/// <summary>A problem to plan for: shapes, element type, options, and the device, real or assumed. Immutable; compares by value.</summary>
public sealed record AttentionProblem
{
    /// <summary>Direction. Default: forward.</summary>
    public AttentionPass Pass { get; init; }

    /// <summary>Device. Default: the CPU.</summary>
    public Device Device { get; init; } = Device.Cpu;

    /// <summary>Element type of all tensors.</summary>
    public required DType DType { get; init; }

    /// <summary>Number of batch entries.</summary>
    public required long Batch { get; init; }

    /// <summary>Number of queries.</summary>
    public required long LengthQ { get; init; }

    /// <summary>Number of keys.</summary>
    public required long LengthKv { get; init; }

    /// <summary>Number of query heads.</summary>
    public required long HeadsQ { get; init; }

    /// <summary>Number of key and value heads, a divisor of <see cref="HeadsQ"/>. Default, null: as many as query heads.</summary>
    public long? HeadsKv { get; init; }

    /// <summary>Elements of a query or key vector.</summary>
    public required long HeadDim { get; init; }

    /// <summary>Elements of a value or output vector. Default, null: as many as <see cref="HeadDim"/>.</summary>
    public long? HeadDimV { get; init; }

    /// <summary>Memory order of tensors whose strides are not given. Default: (batch, sequence, heads, head_dim).</summary>
    public TensorLayout Layout { get; init; }

    /// <summary>Strides of q in elements. Default, null: without gaps in <see cref="Layout"/>.</summary>
    public TensorStrides? StridesQ { get; init; }

    /// <summary>Strides of k in elements. Default, null: without gaps in <see cref="Layout"/>.</summary>
    public TensorStrides? StridesK { get; init; }

    /// <summary>Strides of v in elements. Default, null: without gaps in <see cref="Layout"/>.</summary>
    public TensorStrides? StridesV { get; init; }

    /// <summary>Mask, scale and so on.</summary>
    public AttentionOptions Options { get; init; } = AttentionOptions.Default;

    /// <summary>Plan for an absent CUDA device of this compute capability, 10 · major + minor (80, 86, 89, 90 …). Default, 0: the device as it is.</summary>
    public int AssumedComputeCapability { get; init; }

    /// <summary>Multiprocessors of the assumed device. Default, 0: the usual number of that compute capability.</summary>
    public int AssumedMultiprocessorCount { get; init; }

    /// <summary>The problem that a call with these tensors would be.</summary>
    /// <param name="pass">Direction.</param>
    /// <param name="q">(batch, len_q, heads_q, head_dim).</param>
    /// <param name="k">(batch, len_kv, heads_kv, head_dim).</param>
    /// <param name="v">(batch, len_kv, heads_kv, head_dim_v).</param>
    /// <param name="options">Mask, scale and so on.</param>
    /// <returns>The problem. What contradicts itself in the tensors is taken from q and found by the call itself.</returns>
    public static AttentionProblem From(AttentionPass pass, in TensorView q, in TensorView k, in TensorView v, AttentionOptions options) => new()
    {
        Pass = pass,
        Device = q.Device,
        DType = q.DType,
        Batch = q.Sizes.Batch,
        LengthQ = q.Sizes.Sequence,
        LengthKv = k.Sizes.Sequence,
        HeadsQ = q.Sizes.Heads,
        HeadsKv = k.Sizes.Heads,
        HeadDim = q.Sizes.HeadDim,
        HeadDimV = v.Sizes.HeadDim,
        StridesQ = q.Strides,
        StridesK = k.Strides,
        StridesV = v.Strides,
        Options = options,
    };

    internal unsafe void ToNative(fa_describe_params* native)
    {
        TensorShape kv = new(Batch, LengthKv, HeadsKv ?? HeadsQ, HeadDim);
        native->struct_size = (uint)sizeof(fa_describe_params);
        native->pass = (fa_pass)(int)Pass;
        native->device = Device.ToNative();
        View(new TensorShape(Batch, LengthQ, HeadsQ, HeadDim), StridesQ).CopyTo(&native->q);
        View(kv, StridesK).CopyTo(&native->k);
        View(kv with { HeadDim = HeadDimV ?? HeadDim }, StridesV).CopyTo(&native->v);
        native->assumed_compute_capability = AssumedComputeCapability;
        native->assumed_multiprocessor_count = AssumedMultiprocessorCount;
    }

    private TensorView View(TensorShape sizes, TensorStrides? strides) => new(0, DType, Device, sizes, strides ?? sizes.GetStrides(Layout));
}

/// <summary>What would run for a problem, and what it costs.</summary>
public sealed record AttentionPlan
{
    /// <summary>Family of the kernel, never <see cref="KernelFamily.Auto"/>.</summary>
    public required KernelFamily Kernel { get; init; }

    /// <summary>Name of the kernel.</summary>
    public required string KernelName { get; init; }

    /// <summary>One sentence: why this kernel and this tile.</summary>
    public required string Reason { get; init; }

    /// <summary>Rows of q that one step works on.</summary>
    public required int TileQ { get; init; }

    /// <summary>Rows of k and v that one step works on.</summary>
    public required int TileKv { get; init; }

    /// <summary>Depth of the pipeline that brings tiles in; 1 for the CPU.</summary>
    public required int Stages { get; init; }

    /// <summary>Threads per block; for the CPU the threads of the call.</summary>
    public required int Threads { get; init; }

    /// <summary>Registers per thread that the kernel's configuration declares; 0 for the CPU.</summary>
    public required int RegistersPerThread { get; init; }

    /// <summary>Kernels launched one after the other.</summary>
    public required int Launches { get; init; }

    /// <summary>Thread blocks of the main kernel; for the CPU the number of independent tasks.</summary>
    public required long Blocks { get; init; }

    /// <summary>Shared memory of one block of the main kernel in bytes.</summary>
    public required long SharedMemoryBytes { get; init; }

    /// <summary>Workspace that the call needs in bytes.</summary>
    public required long WorkspaceBytes { get; init; }

    /// <summary>Floating-point operations over the visible (query, key) pairs: 2 · pairs · (head_dim + head_dim_v) forward, 2 · pairs · (3 · head_dim +
    /// 2 · head_dim_v) backward.</summary>
    public required double Flops { get; init; }

    /// <summary>Exponentials: visible (query, key) pairs.</summary>
    public required double Exponentials { get; init; }

    /// <summary>Least bytes to and from device memory: every input read once, every output written once.</summary>
    public required double MinimumBytes { get; init; }

    /// <summary>Bytes to and from device memory with this tiling, counting each load of a tile.</summary>
    public required double TiledBytes { get; init; }

    /// <summary>Bytes to and from device memory of the unfused form, which writes and reads the score and probability matrices.</summary>
    public required double UnfusedBytes { get; init; }

    /// <summary>Scratch of the unfused form in bytes: the score and probability matrices and, backward, their gradients' one.</summary>
    public required double UnfusedScratchBytes { get; init; }

    internal static unsafe AttentionPlan FromNative(fa_plan_description* native) => new()
    {
        Kernel = (KernelFamily)(int)native->kernel,
        KernelName = NativeStatus.Utf8(native->kernel_name),
        Reason = NativeStatus.Utf8(native->reason),
        TileQ = native->tile_q,
        TileKv = native->tile_kv,
        Stages = native->stages,
        Threads = native->threads,
        RegistersPerThread = native->registers_per_thread,
        Launches = native->launches,
        Blocks = native->blocks,
        SharedMemoryBytes = checked((long)native->shared_memory_bytes),
        WorkspaceBytes = checked((long)native->workspace_bytes),
        Flops = native->flops,
        Exponentials = native->exponentials,
        MinimumBytes = native->minimum_bytes,
        TiledBytes = native->tiled_bytes,
        UnfusedBytes = native->unfused_bytes,
        UnfusedScratchBytes = native->unfused_scratch_bytes,
    };
}
