using FlashAttention.Interop;

namespace FlashAttention.Tests;

/// <summary>Wrong calls of fa_attention_backward and its workspace query.</summary>
internal static unsafe class BadBackwardCalls
{
    private const int Invalid = (int)fa_status.FA_STATUS_INVALID_ARGUMENT;

    public static BadCall[] All() => [.. Structs(), .. Tensors(), .. Memory(), .. Workspace(), .. Queries()];

    private static BadCall Backward(string name, int status, BackwardChange change, params string[] parts) =>
        new BadCall("backward: " + name, status, parts) { Make = world => world.Backward(change) };

    private static BadCall[] Structs() =>
    [
        new BadCall("backward: params null", Invalid, ["params", "NULL"]) { Make = _ => NativeMethods.fa_attention_backward(null) },
        Backward("struct_size 0", Invalid, (ref p, ref _) => p.struct_size = 0, "params.struct_size", "got 0"),
        Backward("struct_size of the forward struct", Invalid, (ref p, ref _) => p.struct_size = (uint)sizeof(fa_forward_params),
            "params.struct_size", $"got {sizeof(fa_forward_params)}"),
        Backward("reserved set", Invalid, (ref p, ref _) => p.reserved = -1, "reserved", "got -1"),
        Backward("device type negative", Invalid, (ref p, ref _) => p.device.type = (fa_device_type)(-1), "device.type", "got -1"),
        Backward("device index negative", Invalid, (ref p, ref _) => p.device.index = int.MinValue, "device.index", "-2147483648"),
        Backward("stream on the CPU", Invalid, (ref p, ref _) => p.stream = 0x4560, "stream", "0x4560") with { OnlyOn = "cpu" },
    ];

    private static BadCall[] Tensors() =>
    [
        Backward("grad_o dtype differs", Invalid, (ref p, ref _) => p.grad_o.dtype = fa_dtype.FA_DTYPE_FLOAT32, "grad_o.dtype", "float16", "float32"),
        Backward("grad_q dtype differs", Invalid, (ref p, ref _) => p.grad_q.dtype = fa_dtype.FA_DTYPE_BFLOAT16, "grad_q.dtype", "bfloat16"),
        Backward("grad_v dtype unknown", Invalid, (ref p, ref _) => p.grad_v.dtype = (fa_dtype)7, "grad_v.dtype", "got 7"),
        Backward("o head_dim is that of q", Invalid, (ref p, ref _) => p.o.sizes[3] = 16, "o.sizes[3]", "8", "got 16"),
        Backward("grad_o sequence differs", Invalid, (ref p, ref _) => p.grad_o.sizes[1] = 7, "grad_o.sizes[1]", "5", "got 7"),
        Backward("grad_q heads differ", Invalid, (ref p, ref _) => p.grad_q.sizes[2] = 2, "grad_q.sizes[2]", "4", "got 2"),
        Backward("grad_k heads are those of q", Invalid, (ref p, ref _) => p.grad_k.sizes[2] = 4, "grad_k.sizes[2]", "2", "got 4"),
        Backward("grad_k head_dim differs", Invalid, (ref p, ref _) => p.grad_k.sizes[3] = 8, "grad_k.sizes[3]", "16", "got 8"),
        Backward("grad_v head_dim is that of k", Invalid, (ref p, ref _) => p.grad_v.sizes[3] = 16, "grad_v.sizes[3]", "8", "got 16"),
        Backward("grad_v batch differs", Invalid, (ref p, ref _) => p.grad_v.sizes[0] = 1, "grad_v.sizes[0]", "2", "got 1"),
        Backward("grad_k stride negative", Invalid, (ref p, ref _) => p.grad_k.strides[1] = -32, "grad_k.strides[1]", "got -32"),
        Backward("grad_o head_dim not contiguous", Invalid, (ref p, ref _) => p.grad_o.strides[3] = 4, "grad_o.strides[3]", "got 4"),
        Backward("grad_q extent overflows", Invalid, (ref p, ref _) => p.grad_q.strides[1] = long.MaxValue - 1, "grad_q:", "9223372036854775806"),
        Backward("grad_k reserved set", Invalid, (ref p, ref _) => p.grad_k.reserved = 2, "grad_k.reserved", "got 2"),
    ];

    private static BadCall[] Memory() =>
    [
        Backward("o null", Invalid, (ref p, ref _) => p.o.data = null, "o.data", "NULL"),
        Backward("grad_o null", Invalid, (ref p, ref _) => p.grad_o.data = null, "grad_o.data", "NULL"),
        Backward("grad_q null", Invalid, (ref p, ref _) => p.grad_q.data = null, "grad_q.data", "NULL"),
        Backward("grad_k null", Invalid, (ref p, ref _) => p.grad_k.data = null, "grad_k.data", "NULL"),
        Backward("grad_v null", Invalid, (ref p, ref _) => p.grad_v.data = null, "grad_v.data", "NULL"),
        Backward("lse null", Invalid, (ref p, ref _) => p.lse = null, "lse", "40", "NULL"),
        Backward("lse misaligned", Invalid, (ref p, ref _) => p.lse = (float*)((byte*)p.lse + 1), "lse", "aligned", "4 bytes"),
        Backward("grad_lse misaligned", Invalid, (ref p, ref _) => p.grad_lse = (float*)((byte*)p.grad_lse + 2), "grad_lse", "aligned"),
        Backward("grad_k misaligned", Invalid, (ref p, ref _) => p.grad_k.data = (byte*)p.grad_k.data + 1, "grad_k.data", "aligned"),
        Backward("grad_q is q", Invalid, (ref p, ref _) => p.grad_q.data = p.q.data, "grad_q:", "q", "overlap"),
        Backward("grad_v is grad_o", Invalid, (ref p, ref _) => p.grad_v.data = p.grad_o.data, "grad_v:", "grad_o", "overlap"),
        Backward("grad_k and grad_v share memory", Invalid, (ref p, ref _) => p.grad_v.data = p.grad_k.data, "grad_k", "grad_v", "overlap"),
        Backward("grad_q overlaps lse", Invalid, (ref p, ref _) => p.lse = (float*)p.grad_q.data, "grad_q", "lse", "overlap"),
        Backward("grad_q overlaps grad_lse", Invalid, (ref p, ref _) => p.grad_lse = (float*)p.grad_q.data, "grad_q", "grad_lse", "overlap"),
        Backward("grad_k batches share memory", Invalid, (ref p, ref _) => p.grad_k.strides[0] = 0, "grad_k.strides", "distinct"),
        Backward("grad_v rows overlap", Invalid, (ref p, ref _) => p.grad_v.strides[1] = 8, "grad_v.strides", "distinct"),
        Backward("workspace overlaps grad_v", Invalid, (ref p, ref _) => TakeAsWorkspace(ref p, p.grad_v.data), "workspace", "grad_v", "overlap"),
    ];

    private static BadCall[] Workspace() =>
    [
        Backward("workspace null", Invalid, (ref p, ref _) => p.workspace = null, "workspace", "NULL"),
        Backward("workspace too small", (int)fa_status.FA_STATUS_WORKSPACE_TOO_SMALL, (ref p, ref _) => p.workspace_bytes = 1,
            "workspace_bytes", "at least", "got 1"),
        Backward("workspace of 0 bytes", (int)fa_status.FA_STATUS_WORKSPACE_TOO_SMALL, (ref p, ref _) => p.workspace_bytes = 0,
            "workspace_bytes", "got 0"),
        Backward("workspace misaligned", Invalid, (ref p, ref _) => p.workspace = (byte*)p.workspace + 8, "workspace", "16 bytes"),
    ];

    private static BadCall[] Queries() =>
    [
        new BadCall("backward workspace: params null", Invalid, ["params", "NULL"])
        {
            Make = world =>
            {
                ulong bytes = 5;
                fa_status status = NativeMethods.fa_attention_backward_workspace_size(null, &bytes);
                world.Unchanged("out_bytes", bytes == 5);
                return status;
            },
        },
        new BadCall("backward workspace: out_bytes null", Invalid, ["out_bytes", "NULL"]) { Make = _ => QueryWithoutOut() },
        new BadCall("backward workspace: grad_q shape wrong", Invalid, ["grad_q.sizes[1]", "got 6"])
        {
            Make = world => world.BackwardWorkspace((ref p, ref _) => p.grad_q.sizes[1] = 6),
        },
        new BadCall("backward workspace: mask wrong", Invalid, ["options.mask", "got 77"])
        {
            Make = world => world.BackwardWorkspace((ref _, ref o) => o.mask = (fa_mask)77),
        },
    ];

    private static fa_status QueryWithoutOut()
    {
        fa_backward_params p = default;
        p.struct_size = (uint)sizeof(fa_backward_params);
        return NativeMethods.fa_attention_backward_workspace_size(&p, null);
    }

    private static void TakeAsWorkspace(ref fa_backward_params p, void* memory)
    {
        p.workspace = memory;
        p.workspace_bytes = 64;
    }
}
