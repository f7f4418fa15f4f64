using FlashAttention.Cli.Tensors;

namespace FlashAttention.Cli.Checking;

/// <summary>Makes up what modifies the scores of a problem.</summary>
internal static class ScoreDrawing
{
    public const string None = "none", Window = "window", Chunk = "chunk", Softcap = "softcap", Alibi = "alibi", Bias = "bias", Visible = "visible",
        BlockMask = "block-mask", Sinks = "sinks", Dropout = "dropout", Sequences = "sequences";

    /// <summary>All variants.</summary>
    public static readonly string[] Names = [Window, Chunk, Softcap, Alibi, Bias, Visible, BlockMask, Sinks, Dropout, Sequences];

    /// <summary>Those with tensors of fixed parameters, for commands that are given a shape.</summary>
    public static readonly string[] WithTensors = [Alibi, Bias, Visible, BlockMask, Sinks];

    private const int Block = 128;

    /// <summary>Draws up to three variants; half of the problems have none.</summary>
    public static string[] DrawNames(Random random)
    {
        int count = random.Next(6) - 2;
        return count <= 0 ? [] : [.. random.GetItems(Names, count).Distinct()];
    }

    /// <summary>A mask narrowed as the names say.</summary>
    public static Mask Narrow(Mask mask, string[] names, Random random)
    {
        Alignment alignment = (mask as CausalMask)?.Alignment ?? (random.Next(2) == 0 ? Alignment.BottomRight : Alignment.TopLeft);
        if (names.Contains(Window))
        {
            mask &= Mask.Window(random.Next(3) == 0 ? null : random.Next(150), random.Next(3) == 0 ? null : random.Next(100), alignment);
        }
        return names.Contains(Chunk) ? mask & Mask.Chunk(random.Next(1, 150), alignment) : mask;
    }

    /// <summary>Softcap and dropout as the names say.</summary>
    public static AttentionOptions WithNumbers(AttentionOptions options, string[] names, Random random) => options with
    {
        Softcap = names.Contains(Softcap) ? 1 + (20 * random.NextSingle()) : null,
        Dropout = names.Contains(Dropout) ? new Dropout(0.05f + (0.6f * random.NextSingle()), (ulong)random.NextInt64(), (uint)random.Next(3)) : null,
    };

    /// <summary>Tensors of drawn sizes and sequences of drawn lengths.</summary>
    public static ScoreInputs DrawInputs(string[] names, TensorShape q, TensorShape k, DType type, Random random)
    {
        int blockQ = 16 * random.Next(1, 9), blockKv = 16 * random.Next(1, 9);
        ScoreInputs inputs = names.Contains(Sequences) ? DrawSequences(q, k, random) : ScoreInputs.None;
        (long batch, long lengthQ, long lengthKv) = inputs.Packed is { } packed ? (packed.Q.Length, packed.Q.Max(), packed.Kv.Max())
            : (q.Batch, q.Sequence, k.Sequence);
        bool perBatch = random.Next(2) == 0;
        return inputs with
        {
            Slopes = !names.Contains(Alibi) ? null
                : [.. Enumerable.Range(0, perBatch ? (int)batch : 1).SelectMany(_ => FlashAttention.Alibi.StandardSlopes((int)q.Heads))],
            SlopesPerBatch = perBatch,
            Sinks = names.Contains(Sinks) ? [.. Enumerable.Range(0, (int)q.Heads).Select(_ => (float)RandomNormal.Next(random))] : null,
            Bias = names.Contains(Bias) ? Filled(random.Next(2) == 0 ? DType.Float32 : type, () => RandomNormal.Next(random)) : null,
            Visible = names.Contains(Visible) ? Filled(DType.UInt8, () => random.Next(5)) : null,
            Blocks = names.Contains(BlockMask) ? Blocks() : null,
            BlockSize = names.Contains(BlockMask) ? (blockQ, blockKv) : default,
            WantGradBias = names.Contains(Bias),
            WantGradSinks = names.Contains(Sinks),
        };

        HostPairs Filled(DType elements, Func<double> next) => Fill(elements, next,
            new TensorShape(OneOr(batch), OneOr(q.Heads), OneOr(lengthQ), lengthKv));

        HostPairs Blocks() => Fill(DType.UInt8, () => random.Next(3),
            new TensorShape(OneOr(batch), OneOr(q.Heads), Quotient(lengthQ, blockQ), Quotient(lengthKv, blockKv)));

        long OneOr(long size) => random.Next(2) == 0 ? 1 : size;
    }

    /// <summary>Tensors of the usual sizes, for a shape: standard slopes; a bias and sinks drawn; a boolean mask that shows 9 of 10 pairs; every other
    /// block.</summary>
    public static ScoreInputs ForShape(string[] names, TensorShape q, TensorShape k, DType type, (int[] Q, int[] Kv)? packed, Random random)
    {
        (long lengthQ, long lengthKv) = packed is { } lengths ? (lengths.Q.Max(), lengths.Kv.Max()) : (q.Sequence, k.Sequence);
        int block = 0;
        return new ScoreInputs
        {
            Packed = packed,
            Slopes = names.Contains(Alibi) ? FlashAttention.Alibi.StandardSlopes((int)q.Heads) : null,
            Sinks = names.Contains(Sinks) ? [.. Enumerable.Range(0, (int)q.Heads).Select(_ => (float)RandomNormal.Next(random))] : null,
            Bias = names.Contains(Bias) ? Fill(type, () => RandomNormal.Next(random), new TensorShape(1, q.Heads, lengthQ, lengthKv)) : null,
            Visible = names.Contains(Visible) ? Fill(DType.UInt8, () => random.Next(10), new TensorShape(1, 1, lengthQ, lengthKv)) : null,
            Blocks = names.Contains(BlockMask)
                ? Fill(DType.UInt8, () => block++ % 2 == 0 ? 1 : 0, new TensorShape(1, 1, Quotient(lengthQ, Block), Quotient(lengthKv, Block))) : null,
            BlockSize = names.Contains(BlockMask) ? (Block, Block) : default,
            WantGradBias = names.Contains(Bias),
            WantGradSinks = names.Contains(Sinks),
        };
    }

    /// <summary>Options for a description, which reads no memory: sizes alone count.</summary>
    public static AttentionOptions ForDescription(AttentionOptions scalars, string[] names, AttentionProblem p, (int[] Q, int[] Kv)? packed)
    {
        // Any address but null, which would mean that the option is absent.
        const nint NeverRead = 64;
        (long lengthQ, long lengthKv) = packed is { } lengths ? (lengths.Q.Max(), lengths.Kv.Max()) : (p.LengthQ, p.LengthKv);
        return scalars with
        {
            Alibi = names.Contains(Alibi) ? new Alibi(Vector<float>(p.HeadsQ)) : null,
            Sinks = names.Contains(Sinks) ? new Sinks(Vector<float>(p.HeadsQ)) : null,
            Bias = names.Contains(Bias) ? new Bias(Pairs(p.DType, p.HeadsQ, lengthQ, lengthKv)) : null,
            Visible = names.Contains(Visible) ? new VisibleMask(Pairs(DType.UInt8, 1, lengthQ, lengthKv)) : null,
            BlockMask = names.Contains(BlockMask)
                ? new BlockMask(Pairs(DType.UInt8, 1, Quotient(lengthQ, Block), Quotient(lengthKv, Block)), Block, Block) : null,
            Sequences = packed is not { } sequences ? null : FlashAttention.Sequences.Packed(Vector<int>(sequences.Q.Length + 1),
                Vector<int>(sequences.Kv.Length + 1), lengthQ, lengthKv),
        };

        AttentionVector<T> Vector<T>(long length)
            where T : unmanaged => AttentionVector<T>.FromPointer(p.Device, NeverRead, length);

        AttentionTensor Pairs(DType type, long heads, long rows, long columns)
        {
            TensorShape shape = new(1, heads, rows, columns);
            return new TensorView(NeverRead, type, p.Device, shape, shape.GetStrides(TensorLayout.BatchSequenceHeads));
        }
    }

    /// <summary>Packed in a batch of 1, otherwise padded. Sequences end before the tensors do now and then, and some are empty.</summary>
    private static ScoreInputs DrawSequences(TensorShape q, TensorShape k, Random random)
    {
        if (q.Batch > 1)
        {
            return new ScoreInputs
            {
                UsedQ = random.Next(2) == 0 ? null : Used(q),
                UsedKv = Used(k),
                LeftPadded = random.Next(2) == 0,
            };
        }
        int count = random.Next(1, 6);
        return new ScoreInputs { Packed = (Split(q.Sequence, count), Split(k.Sequence, count)) };

        int[] Used(TensorShape shape) => [.. Enumerable.Range(0, (int)shape.Batch).Select(_ => random.Next((int)shape.Sequence + 1))];

        int[] Split(long total, int parts)
        {
            int[] cuts = [.. Enumerable.Range(0, parts).Select(_ => random.Next((int)total + 1)).Order()];
            return [.. cuts.Select((cut, i) => cut - (i == 0 ? 0 : cuts[i - 1]))];
        }
    }

    private static HostPairs Fill(DType type, Func<double> next, TensorShape shape)
    {
        HostPairs pairs = HostPairs.Allocate(type, shape);
        pairs.Fill(next);
        return pairs;
    }

    private static long Quotient(long length, int block) => (length + block - 1) / block;
}
