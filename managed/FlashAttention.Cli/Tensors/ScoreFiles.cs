using FlashAttention.Cli.Files;
using FlashAttention.Cli.Options;

namespace FlashAttention.Cli.Tensors;

/// <summary>What modifies the scores of "run", from files and lists of lengths.</summary>
internal static class ScoreFiles
{
    private static readonly string[] Axes = ["batch", "heads", "queries", "keys"];

    /// <summary>Checks what can be checked without reading a file.</summary>
    public static void Check(FileScoreOptions o)
    {
        Needs("--grad-bias", o.GradBias, "--bias", o.Bias);
        Needs("--grad-sinks", o.GradSinks, "--sinks", o.Sinks);
        Needs("--block-size", o.BlockSize, "--block-mask", o.BlockMask);
        if (o.LeftPadded && !o.UsedQ.Any() && !o.UsedKv.Any())
        {
            throw CliException.Usage("--left-padded needs --used-q or --used-kv");
        }
        _ = OptionParsing.ParsePacked(o);
        if (o.BlockSize is not null)
        {
            _ = OptionParsing.ParseBlockSize(o.BlockSize);
        }

        static void Needs(string option, string? value, string other, string? otherValue)
        {
            if (value is not null && otherValue is null)
            {
                throw CliException.Usage($"{option} needs {other}");
            }
        }
    }

    /// <summary>Files that are read.</summary>
    public static IEnumerable<string> Inputs(FileScoreOptions o) =>
        new[] { o.Alibi == "standard" ? null : o.Alibi, o.Bias, o.Visible, o.BlockMask, o.Sinks }.OfType<string>();

    /// <summary>Reads everything for queries and keys of these shapes.</summary>
    public static ScoreInputs Load(FileScoreOptions o, HostTensor q, HostTensor k)
    {
        (int[] Q, int[] Kv)? packed = OptionParsing.ParsePacked(o);
        long heads = q.Shape.Heads, batch = packed?.Q.Length ?? q.Shape.Batch;
        long queries = packed?.Q.Max() ?? q.Shape.Sequence, keys = packed?.Kv.Max() ?? k.Shape.Sequence;
        if (packed is { } lengths)
        {
            CheckTotal("--seq-lens", lengths.Q, "--q", q.Shape);
            CheckTotal(o.SequenceLengthsKv.Any() ? "--seq-lens-kv" : "--seq-lens", lengths.Kv, "--k", k.Shape);
        }
        (float[]? slopes, bool perBatch) = LoadSlopes(o.Alibi, batch, heads);
        (int Q, int Kv) block = o.BlockMask is null ? default : o.BlockSize is null ? (128, 128) : OptionParsing.ParseBlockSize(o.BlockSize);
        return new ScoreInputs
        {
            Packed = packed,
            UsedQ = Used("--used-q", o.UsedQ, packed?.Q, q.Shape),
            UsedKv = Used("--used-kv", o.UsedKv, packed?.Kv, k.Shape),
            LeftPadded = o.LeftPadded,
            Slopes = slopes,
            SlopesPerBatch = perBatch,
            Sinks = o.Sinks is null ? null : LoadVector("--sinks", o.Sinks, "sinks", [[heads]]),
            Bias = o.Bias is null ? null : LoadPairs("--bias", o.Bias, "bias", q.Type, [batch, heads, queries, keys], broadcastRows: true),
            Visible = o.Visible is null ? null : LoadPairs("--visible", o.Visible, "visible", DType.UInt8, [batch, heads, queries, keys], broadcastRows: true),
            Blocks = o.BlockMask is null ? null : LoadPairs("--block-mask", o.BlockMask, "block_mask", DType.UInt8,
                [batch, heads, Quotient(queries, block.Q), Quotient(keys, block.Kv)], broadcastRows: false),
            BlockSize = block,
            WantGradBias = o.GradBias is not null,
            WantGradSinks = o.GradSinks is not null,
        };
    }

    private static void CheckTotal(string option, int[] lengths, string of, TensorShape shape)
    {
        if (shape.Batch != 1)
        {
            throw CliException.Usage($"{option}: expected a batch of 1, {of} has {shape.Batch}");
        }
        long total = lengths.Sum(length => (long)length);
        if (total > shape.Sequence)
        {
            throw CliException.Usage($"{option}: expected lengths of {shape.Sequence} in all or less, the positions of {of}; got {total}");
        }
    }

    private static int[]? Used(string option, IEnumerable<int> given, int[]? places, TensorShape shape)
    {
        int[] used = [.. given];
        if (used.Length == 0)
        {
            return null;
        }
        long count = places?.Length ?? shape.Batch;
        if (used.Length != count)
        {
            throw CliException.Usage($"{option}: expected {count} numbers, one for each sequence; got {used.Length}");
        }
        for (int i = 0; i < used.Length; i++)
        {
            _ = OptionParsing.CheckRange(option, used[i], 0, places?[i] ?? shape.Sequence);
        }
        return used;
    }

    private static (float[]? Slopes, bool PerBatch) LoadSlopes(string? path, long batch, long heads)
    {
        if (path is null or "standard")
        {
            return (path is null ? null : Alibi.StandardSlopes((int)heads), false);
        }
        float[] slopes = LoadVector("--alibi", path, "alibi_slopes", [[heads], [batch, heads]]);
        return (slopes, slopes.Length != heads);
    }

    /// <summary>Reads floats of one of some shapes.</summary>
    private static unsafe float[] LoadVector(string option, string path, string name, long[][] shapes)
    {
        using TensorSource source = TensorSource.Open(path, name, nameOption: null, rawBFloat16: false);
        if (!shapes.Any(shape => shape.AsSpan().SequenceEqual(source.Shape)))
        {
            string expected = string.Join(" or ", shapes.Select(shape => StoredTypes.FormatShape(shape)));
            throw CliException.Usage($"{option}: shape {StoredTypes.FormatShape(source.Shape)}; expected {expected}");
        }
        float[] values = new float[source.Shape.Aggregate(1L, (a, b) => a * b)];
        fixed (float* at = values)
        {
            ElementConversion.CopyToCOrder(source, (byte*)at, StoredType.Float32);
        }
        return values;
    }

    /// <summary>Reads a tensor over pairs: sizes 1 broadcast, and leading ones may be absent.</summary>
    private static unsafe HostPairs LoadPairs(string option, string path, string name, DType type, long[] full, bool broadcastRows)
    {
        bool mask = type == DType.UInt8;
        using TensorSource source = TensorSource.Open(path, name, nameOption: null, rawBFloat16: false, bytes: mask);
        if (mask != (source.Type == StoredType.UInt8))
        {
            throw CliException.Usage($"{option}: the elements are {source.Type.Name()}; expected {(mask ? "bool or uint8" : "floating-point numbers")}");
        }
        long[] shape = [.. Enumerable.Repeat(1L, Math.Max(0, 4 - source.Shape.Length)), .. source.Shape];
        bool fits = shape.Length == 4;
        for (int i = 0; fits && i < 4; i++)
        {
            fits = shape[i] == full[i] || (shape[i] == 1 && i < (broadcastRows ? 3 : 2));
        }
        if (!fits)
        {
            string axes = string.Join(", ", Axes.Select((axis, i) => i < (broadcastRows ? 3 : 2) ? $"{axis} {full[i]} or 1" : $"{axis} {full[i]}"));
            throw CliException.Usage($"{option}: shape {StoredTypes.FormatShape(source.Shape)}; expected ({axes})");
        }
        TensorShape sizes = new(shape[0], shape[1], shape[2], shape[3]);
        if (sizes.ElementCount > Array.MaxLength)
        {
            throw CliException.Usage($"{option}: expected at most {Array.MaxLength} elements, got {sizes.ElementCount}");
        }
        // A bias has the type of the queries or float32.
        DType stored = mask ? type : source.Type == HostTensor.Stored(type) ? type : DType.Float32;
        HostPairs pairs = HostPairs.Allocate(stored, sizes);
        ElementConversion.CopyToCOrder(source, pairs.Data, mask ? StoredType.UInt8 : HostTensor.Stored(stored));
        return pairs;
    }

    private static long Quotient(long length, int block) => (length + block - 1) / block;
}
