using FlashAttention.Cli.Options;
using FlashAttention.Cli.Tensors;

namespace FlashAttention.Cli.Checking;

/// <summary>A problem drawn at random; the same seed and index give the same problem and the same numbers.</summary>
internal sealed record RandomProblem(TensorShape Q, TensorShape K, TensorShape V, DType Type, TensorLayout Layout, AttentionOptions Options, ScoreInputs Scores,
    double Gain, int Seed)
{
    private static readonly int[] Dims = [1, 3, 8, 16, 24, 32, 40, 64, 64, 72, 80, 96, 128, 128, 160, 192, 256];

    /// <summary>Lengths at and around the edges of tiles.</summary>
    private static readonly int[] Lengths = [0, 1, 2, 15, 16, 17, 63, 64, 65, 100, 127, 128, 129, 191, 192, 193, 255, 256, 257];

    /// <summary>Draws a problem.</summary>
    /// <param name="seed">Seed of all problems.</param>
    /// <param name="index">Which one.</param>
    /// <param name="device">GPUs compute fewer element types and head dimensions.</param>
    /// <param name="quick">Whether to draw small ones only.</param>
    /// <param name="variants">Mask and score variants that it has; null to draw them.</param>
    public static RandomProblem Draw(int seed, int index, DeviceType device, bool quick, string[]? variants)
    {
        int ownSeed = unchecked((seed * 1_000_003) + index);
        Random random = new(ownSeed);
        bool gpu = device == DeviceType.Cuda;
        int Dim() => Pick<int>(random, gpu ? [.. Dims.Where(dim => dim % 8 == 0)] : quick ? [.. Dims.Where(dim => dim <= 80)] : Dims);
        int Length() => Pick<int>(random, quick ? [.. Lengths.Where(length => length <= 129)] : Lengths);
        int batch = random.Next(1, 3), headsKv = random.Next(1, 4), group = Pick<int>(random, [1, 1, 2, 3, 4]);
        int lengthQ = Length(), lengthKv = random.Next(3) == 0 ? lengthQ : Length(), dim = Dim(), dimV = random.Next(4) == 0 ? Dim() : dim;
        DType type = Pick<DType>(random, gpu ? [DType.Float16, DType.BFloat16] : [DType.Float32, DType.Float16, DType.BFloat16]);
        TensorShape q = new(batch, lengthQ, headsKv * group, dim), k = new(batch, lengthKv, headsKv, dim);
        string[] names = variants ?? ScoreDrawing.DrawNames(random);
        AttentionOptions options = new()
        {
            Mask = ScoreDrawing.Narrow(Pick<Mask>(random, [Mask.None, Mask.Causal(Alignment.BottomRight), Mask.Causal(Alignment.TopLeft)]), names, random),
            Scale = random.Next(4) == 0 ? (float)(0.02 + random.NextDouble()) / MathF.Sqrt(dim) : null,
            Deterministic = random.Next(2) == 0,
        };
        TensorLayout layout = Pick<TensorLayout>(random, [TensorLayout.BatchSequenceHeads, TensorLayout.BatchHeadsSequence]);
        double gain = random.Next(6) == 0 ? 4 : 1;
        options = ScoreDrawing.WithNumbers(options, names, random);
        return new RandomProblem(q, k, k with { HeadDim = dimV }, type, layout, options, ScoreDrawing.DrawInputs(names, q, k, type, random), gain, ownSeed);
    }

    /// <summary>Draws the numbers and binds them to a device, ready for both passes.</summary>
    public AttentionCall Bind(Device device)
    {
        Random random = new(Seed ^ 0x5EED);
        AttentionCall call = new(device, Fill(Q, random, Gain), Fill(K, random, Gain), Fill(V, random, 1), Options, Scores);
        call.EnableBackward(Fill(Q with { HeadDim = V.HeadDim }, random, 1));
        return call;
    }

    public override string ToString()
    {
        string dimV = V.HeadDim == Q.HeadDim ? string.Empty : $"/{V.HeadDim}";
        string scale = Options.Scale is null ? string.Empty : " scaled", large = Gain > 1 ? " large" : string.Empty;
        string layout = Layout == TensorLayout.BatchHeadsSequence ? " bhsd" : string.Empty;
        string scores = ScoreText.Describe(Scores.OnHost(Options));
        return $"b{Q.Batch} h{Q.Heads}/{K.Heads} q{Q.Sequence} kv{K.Sequence} d{Q.HeadDim}{dimV} {OptionParsing.Name(Type)} {OptionParsing.Name(Options.Mask)}"
            + scale + large + layout + (scores.Length > 0 ? $" {scores}" : string.Empty);
    }

    private HostTensor Fill(TensorShape shape, Random random, double gain)
    {
        HostTensor tensor = HostTensor.Allocate(Type, shape, Layout);
        tensor.FillNormal(random, gain);
        return tensor;
    }

    private static T Pick<T>(Random random, T[] values) => values[random.Next(values.Length)];
}
