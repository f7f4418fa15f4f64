using FlashAttention.Interop;

namespace FlashAttention.Tests;

/// <summary>Wrong calls of fa_attention_forward and its workspace query.</summary>
internal static unsafe class BadForwardCalls
{
    private const int Invalid = (int)fa_status.FA_STATUS_INVALID_ARGUMENT;
    private const int Unsupported = (int)fa_status.FA_STATUS_UNSUPPORTED;

    public static BadCall[] All() => [.. Structs(), .. Tensors(), .. Shapes(), .. Memory(), .. Options(), .. Queries()];

    private static BadCall Forward(string name, int status, ForwardChange change, params string[] parts) =>
        new BadCall("forward: " + name, status, parts) { Make = world => world.Forward(change) };

    private static BadCall[] Structs() =>
    [
        new BadCall("forward: params null", Invalid, ["params", "NULL"]) { Make = _ => NativeMethods.fa_attention_forward(null) },
        Forward("struct_size 0", Invalid, (ref p, ref _) => p.struct_size = 0, "params.struct_size", "got 0"),
        Forward("struct_size too small", Invalid, (ref p, ref _) => p.struct_size -= 8, "params.struct_size", $"got {sizeof(fa_forward_params) - 8}"),
        Forward("struct_size absurd", Invalid, (ref p, ref _) => p.struct_size = uint.MaxValue, "params.struct_size", "4294967295"),
        Forward("reserved set", Invalid, (ref p, ref _) => p.reserved = 3, "reserved", "got 3"),
        Forward("device type unknown", Invalid, (ref p, ref _) => p.device.type = (fa_device_type)7, "device.type", "got 7"),
        Forward("device index negative", Invalid, (ref p, ref _) => p.device.index = -1, "device.index", "-1"),
        Forward("CPU index 1", Invalid, (ref p, ref _) => p.device = new() { index = 1 }, "device.index", "got 1"),
        Forward("CUDA index beyond the machine", (int)fa_status.FA_STATUS_DEVICE_UNAVAILABLE,
            (ref p, ref _) => p.device = new() { type = fa_device_type.FA_DEVICE_CUDA, index = 99 }, "device"),
        Forward("stream on the CPU", Invalid, (ref p, ref _) => p.stream = 0x1230, "stream", "0x1230") with { OnlyOn = "cpu" },
    ];

    private static BadCall[] Tensors() =>
    [
        Forward("q dtype unknown", Invalid, (ref p, ref _) => p.q.dtype = (fa_dtype)9, "q.dtype", "got 9"),
        Forward("v dtype negative", Invalid, (ref p, ref _) => p.v.dtype = (fa_dtype)(-1), "v.dtype", "got -1"),
        Forward("k dtype differs", Invalid, (ref p, ref _) => p.k.dtype = fa_dtype.FA_DTYPE_BFLOAT16, "k.dtype", "float16", "bfloat16"),
        Forward("v dtype differs", Invalid, (ref p, ref _) => p.v.dtype = fa_dtype.FA_DTYPE_BFLOAT16, "v.dtype", "float16", "bfloat16"),
        Forward("o dtype differs", Invalid, (ref p, ref _) => p.o.dtype = fa_dtype.FA_DTYPE_FLOAT32, "o.dtype", "float16", "float32"),
        Forward("k reserved set", Invalid, (ref p, ref _) => p.k.reserved = 1, "k.reserved", "got 1"),
        Forward("q batch negative", Invalid, (ref p, ref _) => p.q.sizes[0] = -1, "q.sizes[0]", "batch", "got -1"),
        Forward("q sequence negative", Invalid, (ref p, ref _) => p.q.sizes[1] = -5, "q.sizes[1]", "sequence", "got -5"),
        Forward("k sequence negative", Invalid, (ref p, ref _) => p.k.sizes[1] = long.MinValue, "k.sizes[1]", "-9223372036854775808"),
        Forward("q without heads", Invalid, (ref p, ref _) => p.q.sizes[2] = 0, "q.sizes[2]", "heads", "got 0"),
        Forward("v head_dim 0", Invalid, (ref p, ref _) => p.v.sizes[3] = 0, "v.sizes[3]", "head_dim", "got 0"),
        Forward("o heads negative", Invalid, (ref p, ref _) => p.o.sizes[2] = -4, "o.sizes[2]", "got -4"),
        Forward("q sequence above the limit", Invalid, (ref p, ref _) => p.q.sizes[1] = long.MaxValue, "q.sizes[1]", "9223372036854775807"),
        Forward("q batch stride negative", Invalid, (ref p, ref _) => p.q.strides[0] = -80, "q.strides[0]", "got -80"),
        Forward("k sequence stride negative", Invalid, (ref p, ref _) => p.k.strides[1] = -1, "k.strides[1]", "got -1"),
        Forward("v head stride negative", Invalid, (ref p, ref _) => p.v.strides[2] = -8, "v.strides[2]", "got -8"),
        Forward("q head_dim not contiguous", Invalid, (ref p, ref _) => p.q.strides[3] = 2, "q.strides[3]", "head_dim", "got 2"),
        Forward("k head_dim stride 0", Invalid, (ref p, ref _) => p.k.strides[3] = 0, "k.strides[3]", "got 0"),
        Forward("o head_dim not contiguous", Invalid, (ref p, ref _) => p.o.strides[3] = 5, "o.strides[3]", "got 5"),
        Forward("q extent overflows", Invalid, (ref p, ref _) => p.q.strides[0] = long.MaxValue, "q:", "9223372036854775807"),
        Forward("v extent overflows in the sum", Invalid,
            (ref p, ref _) => (p.v.strides[0], p.v.strides[1]) = (long.MaxValue / 4, long.MaxValue / 8), "v:", "2305843009213693951"),
    ];

    private static BadCall[] Shapes() =>
    [
        Forward("k batch differs", Invalid, (ref p, ref _) => p.k.sizes[0] = 1, "k.sizes[0]", "2", "got 1"),
        Forward("v batch differs", Invalid, (ref p, ref _) => p.v.sizes[0] = 3, "v.sizes[0]", "2", "got 3"),
        Forward("k head_dim differs", Invalid, (ref p, ref _) => p.k.sizes[3] = 8, "k.sizes[3]", "16", "got 8"),
        Forward("v sequence differs", Invalid, (ref p, ref _) => p.v.sizes[1] = 6, "v.sizes[1]", "7", "got 6"),
        Forward("v heads differ", Invalid, (ref p, ref _) => p.v.sizes[2] = 1, "v.sizes[2]", "2", "got 1"),
        Forward("heads_q no multiple of heads_kv", Invalid, (ref p, ref _) => p.q.sizes[2] = p.o.sizes[2] = 3, "q.sizes[2]", "multiple", "2", "got 3"),
        Forward("o batch differs", Invalid, (ref p, ref _) => p.o.sizes[0] = 1, "o.sizes[0]", "2", "got 1"),
        Forward("o sequence differs", Invalid, (ref p, ref _) => p.o.sizes[1] = 4, "o.sizes[1]", "5", "got 4"),
        Forward("o heads differ", Invalid, (ref p, ref _) => p.o.sizes[2] = 2, "o.sizes[2]", "4", "got 2"),
        Forward("o head_dim is not that of v", Invalid, (ref p, ref _) => p.o.sizes[3] = 16, "o.sizes[3]", "8", "got 16"),
    ];

    private static BadCall[] Memory() =>
    [
        Forward("q null", Invalid, (ref p, ref _) => p.q.data = null, "q.data", "NULL"),
        Forward("k null", Invalid, (ref p, ref _) => p.k.data = null, "k.data", "NULL"),
        Forward("v null", Invalid, (ref p, ref _) => p.v.data = null, "v.data", "NULL"),
        Forward("o null", Invalid, (ref p, ref _) => p.o.data = null, "o.data", "NULL"),
        Forward("q misaligned", Invalid, (ref p, ref _) => p.q.data = (byte*)p.q.data + 1, "q.data", "aligned", "2 bytes"),
        Forward("o misaligned", Invalid, (ref p, ref _) => p.o.data = (byte*)p.o.data + 1, "o.data", "aligned", "2 bytes"),
        Forward("lse misaligned", Invalid, (ref p, ref _) => p.lse = (float*)((byte*)p.lse + 2), "lse", "aligned", "4 bytes"),
        Forward("o is q", Invalid, (ref p, ref _) => p.o.data = p.q.data, "o:", "q"),
        Forward("o overlaps the end of v", Invalid, (ref p, ref _) => p.o.data = (byte*)p.v.data + 14 * 16, "o:", "v", "overlap"),
        Forward("o overlaps lse", Invalid, (ref p, ref _) => p.lse = (float*)p.o.data, "lse", "o", "overlap"),
        Forward("lse overlaps k", Invalid, (ref p, ref _) => p.lse = (float*)p.k.data, "lse", "k", "overlap"),
        Forward("workspace overlaps q", Invalid, (ref p, ref _) => TakeAsWorkspace(ref p, p.q.data), "workspace", "q", "overlap"),
        Forward("workspace overlaps o", Invalid, (ref p, ref _) => TakeAsWorkspace(ref p, p.o.data), "workspace", "o", "overlap"),
        Forward("o heads share memory", Invalid, (ref p, ref _) => p.o.strides[2] = 0, "o.strides", "distinct"),
        Forward("o rows overlap by half", Invalid, (ref p, ref _) => (p.o.strides[1], p.o.strides[2]) = (4, 20), "o.strides", "distinct"),
        Forward("host memory on the GPU", Invalid, (ref p, ref _) => p.q.data = HostMemory.Address, "q.data") with { OnlyOn = "cuda" },
    ];

    private static BadCall[] Options() =>
    [
        Forward("options.struct_size 0", Invalid, (ref _, ref o) => o.struct_size = 0, "options.struct_size", "got 0"),
        Forward("options.struct_size too small", Invalid, (ref _, ref o) => o.struct_size = 20,
            "options.struct_size", $"{sizeof(fa_attention_options)}", "got 20"),
        Forward("options.struct_size absurd", Invalid, (ref _, ref o) => o.struct_size = 1 << 30, "options.struct_size", "1073741824"),
        Forward("mask negative", Invalid, (ref _, ref o) => o.mask = (fa_mask)(-1), "options.mask", "got -1"),
        Forward("mask unknown", Invalid, (ref _, ref o) => o.mask = (fa_mask)5, "options.mask", "got 5"),
        Forward("scale NaN", Invalid, (ref _, ref o) => o.scale = float.NaN, "options.scale", "nan"),
        Forward("scale infinite", Invalid, (ref _, ref o) => o.scale = float.PositiveInfinity, "options.scale", "inf"),
        Forward("scale negative", Invalid, (ref _, ref o) => o.scale = -0.5f, "options.scale", "-0.5"),
        Forward("deterministic 2", Invalid, (ref _, ref o) => o.deterministic = 2, "options.deterministic", "got 2"),
        Forward("deterministic -1", Invalid, (ref _, ref o) => o.deterministic = -1, "options.deterministic", "got -1"),
        Forward("kernel unknown", Invalid, (ref _, ref o) => o.kernel = (fa_kernel)4, "options.kernel", "got 4"),
        Forward("kernel negative", Invalid, (ref _, ref o) => o.kernel = (fa_kernel)(-2), "options.kernel", "got -2"),
        Forward("options.reserved set", Invalid, (ref _, ref o) => o.reserved = 8, "options.reserved", "got 8"),
        Forward("a CUDA kernel on the CPU", Unsupported, (ref _, ref o) => o.kernel = fa_kernel.FA_KERNEL_SM80, "sm80", "CUDA") with { OnlyOn = "cpu" },
        Forward("the CPU kernel on CUDA", Unsupported, (ref _, ref o) => o.kernel = fa_kernel.FA_KERNEL_CPU, "cpu") with { OnlyOn = "cuda" },
        Forward("head_dim beyond 512", Unsupported, (ref p, ref _) => WidenHeadDim(ref p, 513), "513"),
    ];

    private static BadCall[] Queries() =>
    [
        new BadCall("forward workspace: params null", Invalid, ["params", "NULL"])
        {
            Make = world =>
            {
                ulong bytes = 5;
                fa_status status = NativeMethods.fa_attention_forward_workspace_size(null, &bytes);
                world.Unchanged("out_bytes", bytes == 5);
                return status;
            },
        },
        new BadCall("forward workspace: out_bytes null", Invalid, ["out_bytes", "NULL"])
        {
            Make = _ => QueryWithoutOut(),
        },
        new BadCall("forward workspace: shapes wrong", Invalid, ["k.sizes[3]", "got 24"])
        {
            Make = world => world.ForwardWorkspace((ref p, ref _) => p.k.sizes[3] = 24),
        },
        new BadCall("forward workspace: scale wrong", Invalid, ["options.scale", "-1"])
        {
            Make = world => world.ForwardWorkspace((ref _, ref o) => o.scale = -1),
        },
    ];

    private static fa_status QueryWithoutOut()
    {
        fa_forward_params p = default;
        p.struct_size = (uint)sizeof(fa_forward_params);
        return NativeMethods.fa_attention_forward_workspace_size(&p, null);
    }

    private static void TakeAsWorkspace(ref fa_forward_params p, void* memory)
    {
        p.workspace = memory;
        p.workspace_bytes = 64;
    }

    // The longer rows end inside the guard bands, so that nothing but the head_dim is wrong.
    private static void WidenHeadDim(ref fa_forward_params p, long headDim)
    {
        p.q.sizes[3] = headDim;
        p.k.sizes[3] = headDim;
    }
}

/// <summary>Plain host memory for calls that must refuse it.</summary>
internal static unsafe class HostMemory
{
    public static readonly byte* Address = (byte*)System.Runtime.InteropServices.NativeMemory.AlignedAlloc(1 << 16, 64);
}
