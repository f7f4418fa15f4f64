namespace FlashAttention;

/// <summary>Where the positions of one sequence lie in the tensors.</summary>
/// <param name="Batch">Index in the batch dimension of the tensors.</param>
/// <param name="FirstQ">First used position of q.</param>
/// <param name="LengthQ">Used positions of q.</param>
/// <param name="FirstKv">First used position of k and v.</param>
/// <param name="LengthKv">Used positions of k and v.</param>
internal readonly record struct SequencePlace(int Batch, int FirstQ, int LengthQ, int FirstKv, int LengthKv);

/// <summary>A tensor of four dimensions in host memory, of which the first three may be broadcast.</summary>
internal sealed class BroadcastTensor
{
    private readonly double[] _values;
    private readonly (int B, int H, int Q, int K) _sizes;

    public BroadcastTensor(AttentionTensor tensor, string name, TensorShape expected, bool broadcastRows)
    {
        TensorShape s = tensor.Sizes;
        bool fits = (s.Batch == 1 || s.Batch == expected.Batch) && (s.Sequence == 1 || s.Sequence == expected.Sequence)
            && ((broadcastRows && s.Heads == 1) || s.Heads == expected.Heads) && s.HeadDim == expected.HeadDim;
        if (!fits)
        {
            throw new ArgumentException($"{name}: expected sizes {expected}, 1 where it broadcasts, got {s}.", "options");
        }

        _values = tensor.ToDoubles(name);
        _sizes = ((int)s.Batch, (int)s.Sequence, (int)s.Heads, (int)s.HeadDim);
    }

    public int Length => _values.Length;

    public double this[int batch, int head, int row, int column] => _values[Index(batch, head, row, column)];

    /// <summary>Index of an element in memory order.</summary>
    public int Index(int batch, int head, int row, int column)
    {
        int b = _sizes.B == 1 ? 0 : batch;
        int h = _sizes.H == 1 ? 0 : head;
        int q = _sizes.Q == 1 ? 0 : row;
        return (((((b * _sizes.H) + h) * _sizes.Q) + q) * _sizes.K) + column;
    }
}

/// <summary>A problem with everything that options add to it, resolved to plain arrays.</summary>
internal sealed class ReferenceProblem
{
    private readonly AttentionOptions _options;
    private readonly MaskTerms _mask;
    private readonly float[] _slopes = [];
    private readonly float[] _sinks = [];
    private readonly BroadcastTensor? _visible;
    private readonly BroadcastTensor? _blocks;

    public ReferenceProblem(ReferenceSizes sizes, AttentionOptions options)
    {
        Sizes = sizes;
        _options = options;
        _mask = options.Mask.Terms;
        Scale = options.ScaleFor(sizes.HeadDim);
        Places = ReferencePlaces.Of(sizes, options.Sequences);
        bool packed = options.Sequences?.OffsetsQ is not null;
        long rows = packed ? options.Sequences!.LongestQ : sizes.LengthQ;
        long columns = packed ? options.Sequences!.LongestKv : sizes.LengthKv;
        TensorShape pairs = new(Places.Length, sizes.HeadsQ, rows, columns);
        if (options.Alibi is { } alibi)
        {
            _slopes = alibi.Slopes.HostSpan("options.Alibi.Slopes").ToArray();
            Ensure.Exactly(_slopes.Length, alibi.PerBatch ? Places.Length * sizes.HeadsQ : sizes.HeadsQ, "options.Alibi.Slopes");
        }

        if (options.Sinks is { } sinks)
        {
            _sinks = sinks.Logits.HostSpan("options.Sinks.Logits").ToArray();
            Ensure.Exactly(_sinks.Length, sizes.HeadsQ, "options.Sinks.Logits");
        }

        Bias = options.Bias is { } bias ? new BroadcastTensor(bias.Values, "options.Bias.Values", pairs, broadcastRows: true) : null;
        _visible = options.Visible is { } visible ? new BroadcastTensor(visible.Values, "options.Visible.Values", pairs, broadcastRows: true) : null;
        if (options.BlockMask is { } blocks)
        {
            TensorShape tiles = pairs with { Heads = (rows + blocks.BlockQ - 1) / blocks.BlockQ, HeadDim = (columns + blocks.BlockKv - 1) / blocks.BlockKv };
            _blocks = new BroadcastTensor(blocks.Blocks, "options.BlockMask.Blocks", tiles, broadcastRows: false);
        }
    }

    public ReferenceSizes Sizes { get; }

    public double Scale { get; }

    public SequencePlace[] Places { get; }

    public BroadcastTensor? Bias { get; }

    /// <summary>Whether the bias, and so its gradient, has the element type of q.</summary>
    public bool BiasIsRounded => _options.Bias is { Values.DType: not DType.Float32 };

    public double? Softcap => _options.Softcap;

    /// <summary>Whether gradients of bias or sinks are sums over several heads or batch entries.</summary>
    public bool HasSharedGradients => Bias is not null || _sinks.Length > 0;

    public int SinkCount => _sinks.Length;

    /// <summary>Logit of a head's sink; −∞ without sinks.</summary>
    public double Sink(int head) => _sinks.Length == 0 ? double.NegativeInfinity : _sinks[head];

    /// <summary>Fills the keys that a query sees, as indices in its sequence, and returns their number.</summary>
    public int VisibleKeys(int sequence, int head, int query, Span<int> keys)
    {
        SequencePlace place = Places[sequence];
        (long first, long end) = _mask.VisibleRange(query, place.LengthQ, place.LengthKv);
        int count = 0;
        for (int key = (int)first; key < end; ++key)
        {
            bool hidden = (_visible is not null && _visible[sequence, head, query, key] == 0)
                || (_blocks is not null && _blocks[sequence, head, query / _options.BlockMask!.BlockQ, key / _options.BlockMask.BlockKv] == 0)
                || (Bias is not null && double.IsNegativeInfinity(Bias[sequence, head, query, key]));
            if (!hidden)
            {
                keys[count++] = key;
            }
        }

        return count;
    }

    /// <summary>What ALiBi takes off a score.</summary>
    public double Distance(int sequence, int head, int query, int key)
    {
        if (_slopes.Length == 0)
        {
            return 0;
        }

        SequencePlace place = Places[sequence];
        int position = query + (_mask.Alignment == Alignment.BottomRight ? place.LengthKv - place.LengthQ : 0);
        double slope = _slopes[_options.Alibi!.PerBatch ? (sequence * Sizes.HeadsQ) + head : head];
        return slope * Math.Abs(position - key);
    }

    /// <summary>Factor of dropout on a probability: 0 or 1 / (1 − rate).</summary>
    public double KeepFactor(int sequence, int head, int query, int key) =>
        _options.Dropout is not { Rate: > 0 } dropout ? 1
        : Philox.Keeps(dropout, (uint)((sequence * Sizes.HeadsQ) + head), (uint)query, (uint)key) ? 1 / (1 - (double)dropout.Rate)
        : 0;
}

/// <summary>Resolves lengths of sequences.</summary>
internal static class ReferencePlaces
{
    public static SequencePlace[] Of(ReferenceSizes sizes, Sequences? sequences)
    {
        if (sequences is null)
        {
            return [.. Enumerable.Range(0, sizes.Batch).Select(b => new SequencePlace(b, 0, sizes.LengthQ, 0, sizes.LengthKv))];
        }

        bool packed = sequences.OffsetsQ is not null;
        Ensure.Exactly(sizes.Batch, packed ? 1 : sequences.Count, packed ? "q.Lengths[0] of packed sequences" : "options.Sequences");
        SequencePlace[] places = new SequencePlace[sequences.Count];
        for (int b = 0; b < places.Length; ++b)
        {
            (int firstQ, int lengthQ) = Used(sequences, b, sequences.OffsetsQ, sequences.UsedQ, sizes.LengthQ, "Q");
            (int firstKv, int lengthKv) = Used(sequences, b, sequences.OffsetsKv, sequences.UsedKv, sizes.LengthKv, "Kv");
            places[b] = new SequencePlace(packed ? 0 : b, firstQ, lengthQ, firstKv, lengthKv);
        }

        return places;
    }

    private static (int First, int Length) Used(
        Sequences sequences, int b, AttentionVector<int>? offsets, AttentionVector<int>? used, int whole, string suffix)
    {
        int first = offsets is null ? 0 : offsets.HostSpan($"options.Sequences.Offsets{suffix}")[b];
        int places = offsets is null ? whole : offsets.HostSpan($"options.Sequences.Offsets{suffix}")[b + 1] - first;
        int length = used is null ? places : used.HostSpan($"options.Sequences.Used{suffix}")[b];
        if (first < 0 || length < 0 || length > places || first + places > whole)
        {
            throw new ArgumentException(
                $"options.Sequences: expected at most {places} used positions inside {whole}, got {length} of sequence {b} from {first} in {suffix}.",
                "options");
        }

        return (sequences.LeftPadded ? first + places - length : first, length);
    }
}
