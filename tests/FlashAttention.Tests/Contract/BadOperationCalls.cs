using FlashAttention.Interop;

namespace FlashAttention.Tests;

/// <summary>Wrong calls of fa_attention_dropout_mask, fa_attention_merge and fa_attention_merge_backward.</summary>
internal static unsafe class BadOperationCalls
{
    private const int Invalid = (int)fa_status.FA_STATUS_INVALID_ARGUMENT;
    private const fa_dtype Float = fa_dtype.FA_DTYPE_FLOAT32;

    private delegate void DropoutChange(fa_dropout_mask_params* p);

    private delegate void MergeChange(fa_merge_params* p);

    public static BadCall[] All() => [.. Dropout(), .. Merge(), .. MergeBackward()];

    private static BadCall Mask(string name, DropoutChange change, params string[] parts) => new("dropout mask: " + name, Invalid, parts)
    {
        Make = world =>
        {
            var p = new fa_dropout_mask_params
            {
                struct_size = (uint)sizeof(fa_dropout_mask_params),
                dropout = 0.5f,
                device = world.Handle,
                @out = *VariantScratch.Tensor(0, fa_dtype.FA_DTYPE_UINT8, 1, 2, 3, 4),
            };
            change(&p);
            fa_status status = NativeMethods.fa_attention_dropout_mask(&p);
            world.Unchanged("out", !new ReadOnlySpan<byte>(VariantScratch.Kept, 1 << 12).ContainsAnyExcept((byte)0));
            return status;
        },
    };

    private static BadCall[] Dropout() =>
    [
        new("dropout mask: params null", Invalid, ["params", "NULL"]) { Make = _ => NativeMethods.fa_attention_dropout_mask(null) },
        Mask("struct_size 0", p => p->struct_size = 0, "params.struct_size", "got 0"),
        Mask("dropout 1", p => p->dropout = 1, "params.dropout", "got 1"),
        Mask("dropout NaN", p => p->dropout = float.NaN, "params.dropout", "nan"),
        Mask("reserved set", p => p->reserved = 2, "params.reserved", "got 2"),
        Mask("device type unknown", p => p->device.type = (fa_device_type)6, "device.type", "got 6"),
        Mask("floats", p => p->@out.dtype = Float, "out.dtype", "got 0"),
        Mask("size negative", p => p->@out.sizes[2] = -3, "out.sizes[2]", "got -3"),
        Mask("columns not contiguous", p => p->@out.strides[3] = 2, "out.strides[3]", "got 2"),
        Mask("rows share memory", p => p->@out.strides[2] = 0, "out.strides", "distinct") with { OnlyOn = "cpu" },
        Mask("null", p => p->@out.data = null, "out.data", "NULL"),
        Mask("stream on the CPU", p => p->stream = 0x789, "stream", "0x789") with { OnlyOn = "cpu" },
    ];

    private static BadCall Merging(string name, bool backward, MergeChange change, params string[] parts) =>
        new(backward ? "merge backward: " + name : "merge: " + name, Invalid, parts)
        {
            Make = world =>
            {
                fa_merge_params p = Valid(world, backward);
                change(&p);
                fa_status status = backward ? NativeMethods.fa_attention_merge_backward(&p) : NativeMethods.fa_attention_merge(&p);
                world.Unchanged("outputs", !new ReadOnlySpan<byte>(VariantScratch.Kept, 1 << 12).ContainsAnyExcept((byte)0));
                return status;
            },
        };

    private static BadCall[] Merge() =>
    [
        new("merge: params null", Invalid, ["params", "NULL"]) { Make = _ => NativeMethods.fa_attention_merge(null) },
        Merging("struct_size 8", false, p => p->struct_size = 8, "params.struct_size", "got 8"),
        Merging("no parts", false, p => p->parts = 0, "params.parts", "got 0"),
        Merging("too many parts", false, p => p->parts = 17, "params.parts", "16", "got 17"),
        Merging("device index", false, p => p->device.index = -2, "device.index", "-2"),
        Merging("o of bytes", false, p => p->o.dtype = fa_dtype.FA_DTYPE_UINT8, "o.dtype", "3"),
        Merging("dtypes of the parts differ", false, p => p->part_o[1] = Typed(p->part_o[1], fa_dtype.FA_DTYPE_FLOAT16), "part_o[1].dtype", "float16"),
        Merging("a part's shape", false, p => p->part_o[1] = Sized(p->part_o[1], 1, 4), "part_o[1].sizes[1]", "got 4"),
        Merging("part without o", false, p => p->part_o[0] = default, "part_o[0]"),
        Merging("part without lse", false, p => p->part_lse[1] = 0, "part_lse[1]", "NULL"),
        Merging("lse null", false, p => p->lse = null, "lse", "NULL"),
        Merging("o beyond parts", false, p => p->part_o[2] = p->part_o[1], "part_o[2]", "beyond"),
        Merging("lse beyond parts", false, p => p->part_lse[15] = p->part_lse[1], "part_lse[15]", "beyond"),
        Merging("grad_o forward", false, p => p->grad_o = p->o, "grad_o", "forward"),
        Merging("grad_lse forward", false, p => p->grad_lse = p->lse, "grad_lse", "forward"),
        Merging("grad_part_o forward", false, p => p->grad_part_o[0] = p->o, "grad_part_o[0]", "forward"),
        Merging("grad_part_lse forward", false, p => p->grad_part_lse[0] = (nint)p->lse, "grad_part_lse[0]", "forward"),
        Merging("o is a part", false, p => p->o.data = p->part_o[0].data, "o:", "part_o[0]", "overlap"),
        Merging("lse is a part's", false, p => p->lse = (float*)p->part_lse[1], "lse:", "part_lse[1]", "overlap"),
    ];

    private static BadCall[] MergeBackward() =>
    [
        Merging("grad_o null", true, p => p->grad_o.data = null, "grad_o.data", "NULL"),
        Merging("grad_o dtype", true, p => p->grad_o.dtype = fa_dtype.FA_DTYPE_BFLOAT16, "grad_o.dtype", "bfloat16"),
        Merging("grad_lse misaligned", true, p => p->grad_lse = (float*)((byte*)p->lse + 2), "grad_lse", "aligned"),
        Merging("grad_part_o null", true, p => p->grad_part_o[1] = Moved(p->grad_part_o[1], null), "grad_part_o[1].data", "NULL"),
        Merging("grad_part_o shape", true, p => p->grad_part_o[0] = Sized(p->grad_part_o[0], 3, 7), "grad_part_o[0].sizes[3]", "got 7"),
        Merging("grad_part_lse null", true, p => p->grad_part_lse[0] = 0, "grad_part_lse[0]", "NULL"),
        Merging("gradients beyond parts", true, p => p->grad_part_o[2] = p->grad_part_o[1], "grad_part_o[2]", "beyond"),
        Merging("gradients share memory", true, p => p->grad_part_o[1] = p->grad_part_o[0], "grad_part_o", "overlap"),
        Merging("gradient is o", true, p => p->grad_part_o[0] = Moved(p->grad_part_o[0], p->o.data), "grad_part_o[0]:", "o", "overlap"),
    ];

    // Two parts of (1, 3, 2, 8) floats, 192 bytes each, in 256-byte places of zeroed memory that no refused call may change.
    private static fa_merge_params Valid(CallWorld world, bool backward)
    {
        byte* memory = VariantScratch.Data;
        bool cuda = world.Device.IsCuda;
        int place = 0;
        fa_tensor Tensor() => Moved(*VariantScratch.Tensor(0, Float, 1, 3, 2, 8), (cuda ? world.DeviceScratch : memory) + 256 * place++);
        float* Rows() => (float*)((cuda ? world.DeviceScratch : memory) + 256 * place++);
        var p = new fa_merge_params { struct_size = (uint)sizeof(fa_merge_params), parts = 2, device = world.Handle, o = Tensor(), lse = Rows() };
        for (int part = 0; part < 2; part++)
        {
            p.part_o[part] = Tensor();
            p.part_lse[part] = (nint)Rows();
            if (backward)
            {
                p.grad_part_o[part] = Tensor();
                p.grad_part_lse[part] = (nint)Rows();
            }
        }
        if (backward)
        {
            p.grad_o = Tensor();
        }
        return p;
    }

    private static fa_tensor Typed(fa_tensor tensor, fa_dtype dtype)
    {
        tensor.dtype = dtype;
        return tensor;
    }

    private static fa_tensor Sized(fa_tensor tensor, int dimension, long size)
    {
        tensor.sizes[dimension] = size;
        return tensor;
    }

    private static fa_tensor Moved(fa_tensor tensor, void* data)
    {
        tensor.data = data;
        return tensor;
    }
}
