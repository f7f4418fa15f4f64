using FlashAttention.Interop;

namespace FlashAttention.Tests;

/// <summary>Wrong values of the options of mask and score variants, in the forward pass unless a field belongs to the backward pass alone. The problem has
/// batch 2, 4 query heads,
/// 5 queries, 7 keys, fp16. What options point to is host memory here: calls that get as far as reading it are wrong in that way already on a GPU.</summary>
internal static unsafe class BadVariantCalls
{
    private const int Invalid = (int)fa_status.FA_STATUS_INVALID_ARGUMENT;
    private const fa_dtype Half = fa_dtype.FA_DTYPE_FLOAT16;
    private const fa_dtype Bytes = fa_dtype.FA_DTYPE_UINT8;

    private delegate void OptionsChange(ref fa_attention_options options);

    private delegate void TensorChange(fa_tensor* tensor);

    private delegate void SequencesChange(fa_sequences* sequences);

    public static BadCall[] All() => [.. Scalars(), .. Vectors(), .. Bias(), .. Masks(), .. Lengths(), .. PackedLengths(), .. Gradients()];

    private static BadCall Forward(string name, OptionsChange change, params string[] parts) =>
        new("variant: " + name, Invalid, parts) { Make = world => world.Forward((ref _, ref o) => change(ref o)) };

    private static BadCall[] Scalars() =>
    [
        Forward("window_left below -1", (ref o) => (o.mask, o.window_left) = (fa_mask.FA_MASK_WINDOW_TOP_LEFT, -2), "options.window_left", "-1", "got -2"),
        Forward("window_right below -1", (ref o) => (o.mask, o.window_right) = (fa_mask.FA_MASK_WINDOW_BOTTOM_RIGHT, -7), "options.window_right", "got -7"),
        Forward("window_left without a window", (ref o) => o.window_left = 5, "options.window_left", "no window", "got 5"),
        Forward("window_right with a causal mask", (ref o) => (o.mask, o.window_right) = (fa_mask.FA_MASK_CAUSAL_TOP_LEFT, 3),
            "options.window_right", "no window", "got 3"),
        Forward("chunk negative", (ref o) => o.chunk = -4, "options.chunk", "got -4"),
        Forward("softcap negative", (ref o) => o.softcap = -30, "options.softcap", "got -30"),
        Forward("softcap NaN", (ref o) => o.softcap = float.NaN, "options.softcap", "nan"),
        Forward("softcap infinite", (ref o) => o.softcap = float.PositiveInfinity, "options.softcap", "inf"),
        Forward("dropout 1", (ref o) => o.dropout = 1, "options.dropout", "[0, 1)", "got 1"),
        Forward("dropout negative", (ref o) => o.dropout = -0.25f, "options.dropout", "got -0.25"),
        Forward("dropout NaN", (ref o) => o.dropout = float.NaN, "options.dropout", "nan"),
        Forward("options.reserved2 set", (ref o) => o.reserved2 = 6, "options.reserved2", "got 6"),
        Forward("block_q without block_mask", (ref o) => o.block_q = 64, "options.block_q", "block_mask", "got 64"),
        Forward("block_kv without block_mask", (ref o) => o.block_kv = 32, "options.block_kv", "block_mask", "got 32"),
    ];

    private static BadCall[] Vectors() =>
    [
        Forward("alibi_slopes misaligned", (ref o) => o.alibi_slopes = (float*)(VariantScratch.Data + 2), "alibi_slopes", "aligned"),
        Forward("alibi_batch_stride negative", (ref o) =>
        {
            o.alibi_slopes = (float*)VariantScratch.Data;
            o.alibi_batch_stride = -4;
        }, "options.alibi_batch_stride", "got -4"),
        Forward("alibi_batch_stride without slopes", (ref o) => o.alibi_batch_stride = 4, "options.alibi_batch_stride", "alibi_slopes", "got 4"),
        Forward("sinks misaligned", (ref o) => o.sinks = (float*)(VariantScratch.Data + 1), "sinks", "aligned"),
    ];

    private static BadCall WithBias(string name, TensorChange change, params string[] parts) => Forward("bias " + name, (ref o) =>
    {
        o.bias = VariantScratch.Tensor(0, Half, 2, 4, 5, 7);
        change(o.bias);
    }, parts);

    private static BadCall[] Bias() =>
    [
        WithBias("of another dtype", t => t->dtype = fa_dtype.FA_DTYPE_BFLOAT16, "bias.dtype", "got 2"),
        WithBias("of bytes", t => t->dtype = Bytes, "bias.dtype", "got 3"),
        WithBias("batch", t => t->sizes[0] = 3, "bias.sizes[0]", "2 or 1", "got 3"),
        WithBias("heads are those of k", t => t->sizes[1] = 2, "bias.sizes[1]", "4 or 1", "got 2"),
        WithBias("rows", t => t->sizes[2] = 4, "bias.sizes[2]", "5 or 1", "got 4"),
        WithBias("columns broadcast", t => t->sizes[3] = 1, "bias.sizes[3]", "7", "got 1"),
        WithBias("columns not contiguous", t => t->strides[3] = 2, "bias.strides[3]", "got 2"),
        WithBias("stride negative", t => t->strides[1] = -35, "bias.strides[1]", "got -35"),
        WithBias("null", t => t->data = null, "bias.data", "NULL"),
        WithBias("misaligned", t => t->data = (byte*)t->data + 1, "bias.data", "aligned"),
        WithBias("reserved set", t => t->reserved = 9, "bias.reserved", "got 9"),
        new("variant: o overlaps bias", Invalid, ["o:", "bias", "overlap"])
        {
            Make = world => world.Forward((ref p, ref o) =>
            {
                o.bias = VariantScratch.Tensor(0, Half, 2, 4, 5, 7);
                o.bias->data = p.o.data;
            }),
        },
    ];

    private static BadCall WithVisible(string name, TensorChange change, params string[] parts) => Forward("visible " + name, (ref o) =>
    {
        o.visible = VariantScratch.Tensor(1, Bytes, 2, 1, 1, 7);
        change(o.visible);
    }, parts);

    private static BadCall WithBlocks(string name, TensorChange change, params string[] parts) => Forward("block_mask " + name, (ref o) =>
    {
        o.block_mask = VariantScratch.Tensor(2, Bytes, 1, 4, 1, 1);
        (o.block_q, o.block_kv) = (16, 16);
        change(o.block_mask);
    }, parts);

    private static BadCall[] Masks() =>
    [
        WithVisible("of halves", t => t->dtype = Half, "visible.dtype", "got 1"),
        WithVisible("batch", t => t->sizes[0] = 4, "visible.sizes[0]", "2 or 1", "got 4"),
        WithVisible("columns", t => t->sizes[3] = 8, "visible.sizes[3]", "7", "got 8"),
        WithVisible("null", t => t->data = null, "visible.data", "NULL"),
        WithBlocks("of floats", t => t->dtype = fa_dtype.FA_DTYPE_FLOAT32, "block_mask.dtype", "got 0"),
        WithBlocks("heads", t => t->sizes[1] = 3, "block_mask.sizes[1]", "4 or 1", "got 3"),
        WithBlocks("rows", t => t->sizes[2] = 2, "block_mask.sizes[2]", "1", "got 2"),
        WithBlocks("columns", t => t->sizes[3] = 7, "block_mask.sizes[3]", "1", "got 7"),
        WithBlocks("null", t => t->data = null, "block_mask.data", "NULL"),
        Forward("block_q 0", (ref o) =>
        {
            o.block_mask = VariantScratch.Tensor(2, Bytes, 1, 1, 1, 1);
            o.block_kv = 16;
        }, "options.block_q", "16", "got 0"),
        Forward("block_kv no multiple of 16", (ref o) =>
        {
            o.block_mask = VariantScratch.Tensor(2, Bytes, 1, 1, 1, 1);
            (o.block_q, o.block_kv) = (16, 24);
        }, "options.block_kv", "16", "got 24"),
    ];

    private static BadCall WithLengths(string name, SequencesChange change, params string[] parts) => Forward("sequences " + name, (ref o) =>
    {
        o.sequences = VariantScratch.Sequences(2);
        o.sequences->seqused_kv = VariantScratch.Lengths(0, 7, 3);
        change(o.sequences);
    }, parts);

    private static BadCall[] Lengths() =>
    [
        WithLengths("struct_size 0", s => s->struct_size = 0, "sequences.struct_size", "got 0"),
        WithLengths("struct_size absurd", s => s->struct_size = 1 << 20, "sequences.struct_size", "1048576"),
        WithLengths("left_padded 2", s => s->left_padded = 2, "sequences.left_padded", "got 2"),
        WithLengths("count is not the batch", s => s->count = 3, "sequences.count", "2", "got 3"),
        WithLengths("count negative", s => s->count = -1, "sequences.count", "got -1"),
        WithLengths("offsets of q alone", s => s->cu_seqlens_q = VariantScratch.Lengths(1, 0, 2, 5), "sequences.cu_seqlens_kv", "NULL"),
        WithLengths("offsets of kv alone", s => s->cu_seqlens_kv = VariantScratch.Lengths(1, 0, 2, 5), "sequences.cu_seqlens_q", "NULL"),
        WithLengths("packed, batch 2", s =>
        {
            s->cu_seqlens_q = VariantScratch.Lengths(1, 0, 2, 5);
            s->cu_seqlens_kv = VariantScratch.Lengths(2, 0, 3, 7);
        }, "q.sizes[0]", "1 with packed", "got 2"),
        WithLengths("misaligned", s => s->seqused_kv = (int*)((byte*)s->seqused_kv + 1), "sequences.seqused_kv", "aligned"),
        WithLengths("used beyond the places", s => s->seqused_kv = VariantScratch.Lengths(0, 7, 8), "sequences.seqused_kv[1]", "7", "got 8") with
        {
            OnlyOn = "cpu",
        },
        WithLengths("used negative", s => s->seqused_q = VariantScratch.Lengths(3, -1, 5), "sequences.seqused_q[0]", "got -1") with { OnlyOn = "cpu" },
    ];

    private static BadCall Packed(string name, int[] offsetsQ, int[] offsetsKv, long longestQ, long longestKv, params string[] parts) =>
        new("variant: packed, " + name, Invalid, parts)
        {
            OnlyOn = "cpu",
            Make = world => world.Forward((ref p, ref o) =>
            {
                p.q.sizes[0] = p.k.sizes[0] = p.v.sizes[0] = p.o.sizes[0] = 1;
                o.sequences = VariantScratch.Sequences(offsetsQ.Length - 1);
                o.sequences->cu_seqlens_q = VariantScratch.Lengths(1, offsetsQ);
                o.sequences->cu_seqlens_kv = VariantScratch.Lengths(2, offsetsKv);
                (o.sequences->max_len_q, o.sequences->max_len_kv) = (longestQ, longestKv);
            }),
        };

    private static BadCall[] PackedLengths() =>
    [
        Packed("first offset not 0", [1, 2, 5], [0, 3, 7], 3, 4, "sequences.cu_seqlens_q[0]", "got 1"),
        Packed("offsets decrease", [0, 4, 3], [0, 3, 7], 4, 4, "sequences.cu_seqlens_q[2]", "4", "got 3"),
        Packed("offsets beyond k", [0, 2, 5], [0, 3, 8], 3, 5, "sequences.cu_seqlens_kv[2]", "7", "got 8"),
        Packed("longest of q too small", [0, 2, 5], [0, 3, 7], 2, 4, "sequences.max_len_q", "3", "got 2"),
        Packed("longest of k too small", [0, 2, 5], [0, 3, 7], 3, 3, "sequences.max_len_kv", "4", "got 3"),
        Packed("longest negative", [0, 2, 5], [0, 3, 7], -1, 4, "sequences.max_len_q", "got -1"),
    ];

    private static BadCall Backward(string name, BackwardChange change, params string[] parts) =>
        new("variant: " + name, Invalid, parts) { Make = world => world.Backward(change) };

    private static BadCall WithGradBias(string name, TensorChange change, params string[] parts) => Backward("grad_bias " + name, (ref p, ref o) =>
    {
        o.bias = VariantScratch.Tensor(0, Half, 1, 4, 1, 7);
        p.grad_bias = *VariantScratch.Tensor(3, Half, 1, 4, 1, 7);
        p.grad_bias.data = VariantScratch.Data + 4096;
        fa_tensor gradient = p.grad_bias;
        change(&gradient);
        p.grad_bias = gradient;
    }, parts);

    private static BadCall[] Gradients() =>
    [
        Backward("grad_bias without bias", (ref p, ref _) => p.grad_bias = *VariantScratch.Tensor(3, Half, 1, 4, 1, 7), "grad_bias", "bias"),
        WithGradBias("of another dtype", t => t->dtype = fa_dtype.FA_DTYPE_FLOAT32, "grad_bias.dtype", "got 0"),
        WithGradBias("not broadcast as bias", t => t->sizes[2] = 5, "grad_bias.sizes[2]", "1", "got 5"),
        WithGradBias("null", t => t->data = null, "grad_bias.data", "NULL") with { OnlyOn = "cpu" },
        WithGradBias("misaligned", t => t->data = (byte*)t->data + 1, "grad_bias.data", "aligned") with { OnlyOn = "cpu" },
        WithGradBias("heads share memory", t => t->strides[1] = 0, "grad_bias.strides", "distinct") with { OnlyOn = "cpu" },
        WithGradBias("is bias", t => t->data = VariantScratch.Data, "grad_bias:", "bias", "overlap") with { OnlyOn = "cpu" },
        Backward("grad_sinks without sinks", (ref p, ref _) => p.grad_sinks = (float*)VariantScratch.Data, "grad_sinks", "sinks"),
        Backward("grad_sinks misaligned", (ref p, ref o) =>
        {
            o.sinks = (float*)VariantScratch.Data;
            p.grad_sinks = (float*)(VariantScratch.Data + 258);
        }, "grad_sinks", "aligned") with { OnlyOn = "cpu" },
        Backward("grad_sinks is sinks", (ref p, ref o) => o.sinks = p.grad_sinks = (float*)VariantScratch.Data, "grad_sinks", "sinks", "overlap") with
        {
            OnlyOn = "cpu",
        },
    ];
}
