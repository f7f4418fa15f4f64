namespace FlashAttention.Cli.Explain;

/// <summary>Sizes that costs follow from. Pairs are (query, key) pairs summed over batch and query heads.</summary>
/// <param name="Batch">Sequences.</param>
/// <param name="HeadsQ">Query heads.</param>
/// <param name="HeadsKv">Key and value heads.</param>
/// <param name="LenQ">Queries per sequence.</param>
/// <param name="LenKv">Keys per sequence.</param>
/// <param name="Dim">Head dimension of q and k.</param>
/// <param name="DimV">Head dimension of v and o.</param>
/// <param name="ElementBytes">Bytes of one tensor element.</param>
/// <param name="VisiblePairs">Pairs that the mask lets through.</param>
internal sealed record CostInput(long Batch, long HeadsQ, long HeadsKv, long LenQ, long LenKv, long Dim, long DimV, int ElementBytes, double VisiblePairs)
{
    public double RowsQ => (double)Batch * HeadsQ * LenQ;

    public double RowsKv => (double)Batch * HeadsKv * LenKv;

    /// <summary>All pairs, visible or not: elements of the score matrix.</summary>
    public double AllPairs => RowsQ * LenKv;
}

/// <summary>Operations and device-memory traffic of one way to do a step.</summary>
internal sealed record StepCost(double Flops, double Exponentials, double BytesRead, double BytesWritten)
{
    public static readonly StepCost Zero = new(0, 0, 0, 0);

    public double Bytes => BytesRead + BytesWritten;

    /// <summary>Floating-point operations per byte moved; null if nothing is moved.</summary>
    public double? Intensity => Bytes > 0 ? Flops / Bytes : null;

    public static StepCost operator +(StepCost a, StepCost b) =>
        new(a.Flops + b.Flops, a.Exponentials + b.Exponentials, a.BytesRead + b.BytesRead, a.BytesWritten + b.BytesWritten);
}

/// <summary>One step of the algorithm, done naively and fused.</summary>
internal sealed record CostStep(string Name, string Note, StepCost Naive, StepCost Fused);

/// <summary>What naive attention and fused attention compute and move, step by step.</summary>
/// <remarks>Naive: every step is a kernel of its own that reads and writes whole matrices and computes masked pairs too; its backward pass reads the P that the
/// forward pass kept. Fused: scores stay on chip, masked tiles are skipped, and the tensor that a tile does not hold is streamed once per tile. FLOPs are
/// those of
/// the matrix products (2 per multiply-add). In the naive form, inputs and outputs count once per pass.</remarks>
internal static class CostModel
{
    private const double LseBytes = sizeof(float);

    /// <summary>Steps of the forward pass.</summary>
    /// <param name="c">Sizes.</param>
    /// <param name="tileQ">Query rows per tile: keys and values are streamed once per tile.</param>
    public static CostStep[] Forward(CostInput c, int tileQ)
    {
        double e = c.ElementBytes;
        double score = c.AllPairs * e;
        double streamedRows = Math.Max(c.VisiblePairs / Math.Max(tileQ, 1), c.RowsKv);
        return
        [
            new("S = scale * Q K^T", "fused: Q once, K once per query tile; S stays on chip",
                new(2 * c.AllPairs * c.Dim, 0, (c.RowsQ + c.RowsKv) * c.Dim * e, score),
                new(2 * c.VisiblePairs * c.Dim, 0, (c.RowsQ + streamedRows) * c.Dim * e, 0)),
            new("P = softmax(S + mask)", "fused: running maximum and sum per row, on chip",
                new(0, c.AllPairs, score, score),
                new(0, c.VisiblePairs, 0, 0)),
            new("O = P V", "fused: V once per query tile; O rescaled on chip, written once",
                new(2 * c.AllPairs * c.DimV, 0, score + c.RowsKv * c.DimV * e, c.RowsQ * c.DimV * e),
                new(2 * c.VisiblePairs * c.DimV, 0, streamedRows * c.DimV * e, c.RowsQ * c.DimV * e)),
            new("LSE", "fused: one float per row, for the backward pass; naive keeps P instead",
                StepCost.Zero,
                new(0, 0, 0, c.RowsQ * LseBytes)),
        ];
    }

    /// <summary>Steps of the backward pass.</summary>
    /// <param name="c">Sizes.</param>
    /// <param name="tileKv">Key rows per tile: queries and gradients of O are streamed once per tile, and gradients of Q are added up in fp32.</param>
    public static CostStep[] Backward(CostInput c, int tileKv)
    {
        double e = c.ElementBytes;
        double score = c.AllPairs * e;
        double streamedRows = c.VisiblePairs / Math.Max(tileKv, 1);
        double naive = 2 * c.AllPairs;
        double fused = 2 * c.VisiblePairs;
        double qBytes = c.RowsQ * c.Dim * e, oBytes = c.RowsQ * c.DimV * e, kBytes = c.RowsKv * c.Dim * e, vBytes = c.RowsKv * c.DimV * e;
        return
        [
            new("delta = rowsum(dO * O)", "one float per row",
                new(0, 0, 2 * oBytes, 0),
                new(0, 0, 2 * oBytes, c.RowsQ * LseBytes)),
            new("S = scale * Q K^T", "fused: recomputed; K once, Q once per key tile",
                StepCost.Zero,
                new(fused * c.Dim, 0, qBytes + kBytes + streamedRows * c.Dim * e + c.RowsQ * LseBytes, 0)),
            new("P = exp(S - LSE)", "fused: recomputed on chip; naive reads the P it kept",
                StepCost.Zero,
                new(0, c.VisiblePairs, 0, 0)),
            new("dV = P^T dO", "fused: dO once per key tile",
                new(naive * c.DimV, 0, score, vBytes),
                new(fused * c.DimV, 0, streamedRows * c.DimV * e, vBytes)),
            new("dP = dO V^T", "fused: V once",
                new(naive * c.DimV, 0, vBytes, score),
                new(fused * c.DimV, 0, vBytes, 0)),
            new("dS = P * (dP - delta)", "fused: on chip",
                new(0, 0, 2 * score, score),
                StepCost.Zero),
            new("dQ = dS K", "fused: partial sums in fp32, read and written once per key tile",
                new(naive * c.Dim, 0, score + kBytes, qBytes),
                new(fused * c.Dim, 0, streamedRows * c.Dim * sizeof(float), streamedRows * c.Dim * sizeof(float) + qBytes)),
            new("dK = dS^T Q", "fused: added up on chip, written once",
                new(naive * c.Dim, 0, score + qBytes, kBytes),
                new(fused * c.Dim, 0, 0, kBytes)),
        ];
    }

    /// <summary>Memory that naive attention needs beside inputs and outputs: the score-sized matrices that live at once (S and P; backward P, dP and
    /// dS).</summary>
    public static double NaiveScratchBytes(CostInput c, bool backward) => (backward ? 3 : 2) * c.AllPairs * c.ElementBytes;
}
