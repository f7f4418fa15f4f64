using System.Runtime.InteropServices;
using FlashAttention.Interop;

namespace FlashAttention.Tests;

/// <summary>What the variants of a case refer to, in guarded memory of the device.</summary>
internal sealed unsafe class VariantBuffers : IDisposable
{
    private readonly TestDevice device;
    private readonly ProblemCase problem;
    private readonly VariantData data;
    private readonly List<GuardedBlock> owner;
    private readonly Pointed* pointed;
    private readonly TensorBuffer? slopes;
    private readonly TensorBuffer? sinks;
    private readonly TensorBuffer? bias;
    private readonly TensorBuffer? visible;
    private readonly TensorBuffer? blocks;

    public VariantBuffers(TestDevice device, ProblemCase problem, VariantData data, List<GuardedBlock> owner)
    {
        this.device = device;
        this.problem = problem;
        this.data = data;
        this.owner = owner;
        pointed = (Pointed*)NativeMemory.AllocZeroed((nuint)sizeof(Pointed));
        Variants variants = problem.Variants;
        slopes = variants.Alibi == AlibiKind.None ? null : Vector(ElementFormat.Float32, data.Slopes);
        sinks = variants.Sinks ? Vector(ElementFormat.Float32, data.Sinks) : null;
        GradSinks = variants.Sinks ? Vector(ElementFormat.Float32, new double[data.Sinks.Length]) : null;
        if (variants.Bias != PairShape.None)
        {
            bias = PairTensor(problem.BiasFormat, data.PairSizes(problem, variants.Bias));
            bias.Store(data.Bias);
            GradBias = PairTensor(problem.BiasFormat, data.PairSizes(problem, variants.Bias));
        }
        if (variants.Visible != PairShape.None)
        {
            visible = PairTensor(ElementFormat.UInt8, data.PairSizes(problem, variants.Visible));
            visible.Store(data.Visible);
        }
        if (variants.Block is not null)
        {
            blocks = PairTensor(ElementFormat.UInt8, data.BlockSizes(problem));
            blocks.Store(data.Blocks);
        }
        if (variants.Sequences != SequenceKind.None)
        {
            pointed->Sequences = new fa_sequences
            {
                struct_size = (uint)sizeof(fa_sequences),
                left_padded = variants.IsLeftPadded ? 1 : 0,
                count = data.Count,
                cu_seqlens_q = Lengths(data.OffsetsQ),
                cu_seqlens_kv = Lengths(data.OffsetsKv),
                seqused_q = Lengths(data.UsedQ),
                seqused_kv = Lengths(data.UsedKv),
                max_len_q = variants.IsPacked ? data.Rows : 0,
                max_len_kv = variants.IsPacked ? data.Columns : 0,
            };
        }
    }

    public TensorBuffer? GradBias { get; }

    public TensorBuffer? GradSinks { get; }

    /// <summary>A tensor over pairs as the C ABI takes it: (batch, heads, queries, keys).</summary>
    public static fa_tensor Pairs(TensorBuffer buffer)
    {
        fa_tensor tensor = buffer.Native;
        (tensor.sizes[1], tensor.sizes[2]) = (tensor.sizes[2], tensor.sizes[1]);
        (tensor.strides[1], tensor.strides[2]) = (tensor.strides[2], tensor.strides[1]);
        return tensor;
    }

    /// <summary>Sets the fields of the variants; the mask becomes a window where there is one.</summary>
    public void AddTo(ref fa_attention_options options)
    {
        Variants variants = problem.Variants;
        if (variants.Window is { } window)
        {
            options.mask = problem.Mask == MaskKind.BottomRight ? fa_mask.FA_MASK_WINDOW_BOTTOM_RIGHT : fa_mask.FA_MASK_WINDOW_TOP_LEFT;
            options.window_left = window.Left;
            options.window_right = window.Right;
        }
        options.chunk = variants.Chunk;
        options.softcap = variants.Softcap;
        if (variants.Dropout > 0)
        {
            options.dropout = variants.Dropout;
            options.dropout_seed = problem.DropoutSeed;
            options.dropout_offset = problem.DropoutOffset;
        }
        options.alibi_slopes = slopes is null ? null : (float*)slopes.Native.data;
        options.alibi_batch_stride = variants.Alibi == AlibiKind.PerBatch ? problem.HeadsQ : 0;
        options.sinks = sinks is null ? null : (float*)sinks.Native.data;
        options.bias = Point(bias, &pointed->Bias);
        options.visible = Point(visible, &pointed->Visible);
        options.block_mask = Point(blocks, &pointed->Blocks);
        (options.block_q, options.block_kv) = variants.Block ?? (0, 0);
        options.sequences = variants.Sequences == SequenceKind.None ? null : &pointed->Sequences;
    }

    public void Dispose() => NativeMemory.Free(pointed);

    private static fa_tensor* Point(TensorBuffer? buffer, fa_tensor* target)
    {
        if (buffer is null)
        {
            return null;
        }
        *target = Pairs(buffer);
        return target;
    }

    private TensorBuffer Vector(ElementFormat format, double[] values)
    {
        TensorBuffer buffer = TensorStorage.Allocate(device, format, [1, 1, 1, values.Length], [0, 0, 0, 1], 0, owner);
        buffer.Store(values);
        return buffer;
    }

    private int* Lengths(int[] values) => values.Length == 0 ? null : (int*)Vector(ElementFormat.Int32, Array.ConvertAll(values, x => (double)x)).Native.data;

    // Rows of any alignment: with room between them where the tensors of the case have room too. Dense order is (batch, heads, queries, keys).
    private TensorBuffer PairTensor(ElementFormat format, long[] sizes)
    {
        long row = problem.Layout switch { Layout.Padded => (sizes[3] + 15) / 16 * 16 + 16, Layout.OddPadded => sizes[3] + 5, _ => sizes[3] };
        long[] strides = [sizes[1] * sizes[2] * row, row, sizes[2] * row, 1];
        return TensorStorage.Allocate(device, format, [sizes[0], sizes[2], sizes[1], sizes[3]], strides, 0, owner);
    }

    private struct Pointed
    {
        public fa_tensor Bias;
        public fa_tensor Visible;
        public fa_tensor Blocks;
        public fa_sequences Sequences;
    }
}
