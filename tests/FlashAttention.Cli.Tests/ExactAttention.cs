namespace FlashAttention.Cli.Tests;

/// <summary>Attention and its gradients in float64, written for these tests alone: (batch, seq, heads, dim), no blocking.</summary>
internal sealed class ExactAttention
{
    public required double[] O { get; init; }

    /// <summary>(batch, heads, seq).</summary>
    public required double[] Lse { get; init; }

    public required double[] GradQ { get; init; }

    public required double[] GradK { get; init; }

    public required double[] GradV { get; init; }

    /// <summary>Computes everything.</summary>
    /// <param name="q">Queries, (b, sq, hq, d).</param>
    /// <param name="k">Keys, (b, sk, hk, d).</param>
    /// <param name="v">Values, (b, sk, hk, dv).</param>
    /// <param name="gradO">Gradient of O, (b, sq, hq, dv); null for none.</param>
    /// <param name="sizes">b, sq, sk, hq, hk, d, dv.</param>
    /// <param name="offset">Query i sees keys 0 to i + offset; null for all.</param>
    /// <param name="scale">Factor on scores; null for 1/sqrt(d).</param>
    public static ExactAttention Compute(double[] q, double[] k, double[] v, double[]? gradO, (int B, int Sq, int Sk, int Hq, int Hk, int D, int Dv) sizes,
        int? offset,
        double? scale = null)
    {
        (int b, int sq, int sk, int hq, int hk, int d, int dv) = sizes;
        double factor = scale ?? 1 / Math.Sqrt(d);
        ExactAttention result = new()
        {
            O = new double[b * sq * hq * dv],
            Lse = new double[b * hq * sq],
            GradQ = new double[q.Length],
            GradK = new double[k.Length],
            GradV = new double[v.Length],
        };
        for (int row = 0; row < b * hq * sq; row++)
        {
            int batch = row / (hq * sq), head = row / sq % hq, i = row % sq, kvHead = head / (hq / hk);
            int visible = Math.Clamp(offset is null ? sk : i + offset.Value + 1, 0, sk);
            int At(int position, int heads, int h, int dim, int length) => (((batch * length) + position) * heads + h) * dim;
            int qAt = At(i, hq, head, d, sq), oAt = At(i, hq, head, dv, sq);
            double[] p = new double[visible];
            for (int j = 0; j < visible; j++)
            {
                p[j] = factor * Dot(q, qAt, k, At(j, hk, kvHead, d, sk), d);
            }
            double maximum = visible == 0 ? 0 : p.Max(), sum = p.Sum(x => Math.Exp(x - maximum));
            result.Lse[row] = visible == 0 ? double.NegativeInfinity : maximum + Math.Log(sum);
            double delta = 0;
            for (int j = 0; j < visible; j++)
            {
                p[j] = Math.Exp(p[j] - result.Lse[row]);
                int vAt = At(j, hk, kvHead, dv, sk);
                for (int c = 0; c < dv; c++)
                {
                    result.O[oAt + c] += p[j] * v[vAt + c];
                }
                delta += gradO is null ? 0 : p[j] * Dot(gradO, oAt, v, vAt, dv);
            }
            for (int j = 0; gradO is not null && j < visible; j++)
            {
                int kAt = At(j, hk, kvHead, d, sk), vAt = At(j, hk, kvHead, dv, sk);
                double gradS = factor * p[j] * (Dot(gradO, oAt, v, vAt, dv) - delta);
                for (int c = 0; c < d; c++)
                {
                    result.GradQ[qAt + c] += gradS * k[kAt + c];
                    result.GradK[kAt + c] += gradS * q[qAt + c];
                }
                for (int c = 0; c < dv; c++)
                {
                    result.GradV[vAt + c] += p[j] * gradO[oAt + c];
                }
            }
        }
        return result;
    }

    /// <summary>Largest difference; infinite where one number is finite and the other is not.</summary>
    public static double MaxError(double[] actual, double[] expected)
    {
        Assert.That(actual, Has.Length.EqualTo(expected.Length));
        double worst = 0;
        for (int i = 0; i < actual.Length; i++)
        {
            double error = actual[i].Equals(expected[i]) ? 0 : Math.Abs(actual[i] - expected[i]);
            worst = double.IsNaN(error) ? double.PositiveInfinity : Math.Max(worst, error);
        }
        return worst;
    }

    private static double Dot(double[] a, int aAt, double[] b, int bAt, int count)
    {
        double sum = 0;
        for (int c = 0; c < count; c++)
        {
            sum += a[aAt + c] * b[bAt + c];
        }
        return sum;
    }
}
