namespace FlashAttention.Cli.Demo;

/// <summary>Makes queries, keys and values from text: every byte has a seeded random vector, a position sees its own byte and the two before it, and every head
/// has its own seeded projections. The heads are built so that what they attend to can be told in words.</summary>
internal sealed class TextEmbedding
{
    public const int HeadDim = 64;

    /// <summary>Components of a byte's vector, and of the vector of a position.</summary>
    private const int BlockDim = 32;

    /// <summary>Score of a query and a key that match exactly, before the softmax: e^9 outweighs a few thousand keys that do not match.</summary>
    private const float MatchScore = 9f;

    /// <summary>What a head compares: which blocks its query and its key are made of.</summary>
    private sealed record Role(string Description, Block[] Query, Block[] Key);

    private enum Block
    {
        Byte,
        PreviousByte,
        SecondPreviousByte,
        Position,
    }

    private static readonly Role[] Roles =
    [
        new("the same character", [Block.Byte], [Block.Byte]),
        new("what came after this character", [Block.Byte], [Block.PreviousByte]),
        new("what came after these two characters", [Block.Byte, Block.PreviousByte], [Block.PreviousByte, Block.SecondPreviousByte]),
        new("what is near", [Block.Position], [Block.Position]),
    ];

    private readonly float[][] _byteVectors = new float[256][];
    private readonly int _seed;

    public TextEmbedding(int seed)
    {
        _seed = seed;
        Random random = new(seed);
        for (int i = 0; i < _byteVectors.Length; i++)
        {
            _byteVectors[i] = Normalised(Gaussian(random, BlockDim));
        }
    }

    /// <summary>What head <paramref name="head"/> looks for, in words.</summary>
    public static string Describe(int head) => Roles[head % Roles.Length].Description;

    /// <summary>Queries, keys and values of one sequence, each (position, head, component) in C order.</summary>
    public (float[] Q, float[] K, float[] V) Project(ReadOnlySpan<byte> text, int heads)
    {
        byte[] bytes = text.ToArray();
        float[] q = new float[bytes.Length * heads * HeadDim], k = new float[q.Length], v = new float[q.Length];
        Parallel.For(0, heads, head =>
        {
            Role role = Roles[head % Roles.Length];
            Random random = new(unchecked(_seed * 7919 + head + 1));
            float[][] qk = Projection(random, role.Query.Length * BlockDim);
            float[][] values = Projection(random, BlockDim);
            // Vectors of n blocks have squared length n; the kernel divides scores by sqrt(HeadDim).
            float gain = MathF.Sqrt(MatchScore * MathF.Sqrt(HeadDim) / role.Query.Length);
            float[] input = new float[role.Query.Length * BlockDim];
            for (int position = 0; position < bytes.Length; position++)
            {
                int at = (position * heads + head) * HeadDim;
                Gather(bytes, position, role.Query, input);
                Apply(qk, input, gain, q.AsSpan(at, HeadDim));
                Gather(bytes, position, role.Key, input);
                Apply(qk, input, gain, k.AsSpan(at, HeadDim));
                Apply(values, _byteVectors[bytes[position]], 1f, v.AsSpan(at, HeadDim));
            }
        });
        return (q, k, v);
    }

    private void Gather(byte[] text, int position, Block[] blocks, Span<float> destination)
    {
        for (int i = 0; i < blocks.Length; i++)
        {
            Span<float> part = destination.Slice(i * BlockDim, BlockDim);
            if (blocks[i] == Block.Position)
            {
                PositionVector(position, part);
                continue;
            }
            int source = position - (int)blocks[i];
            if (source < 0)
            {
                part.Clear();
                continue;
            }
            _byteVectors[text[source]].CopyTo(part);
        }
    }

    /// <summary>Sines and cosines of the position at wavelengths from 6 to about 600 characters; unit length, and close for close positions.</summary>
    private static void PositionVector(int position, Span<float> destination)
    {
        int waves = destination.Length / 2;
        for (int i = 0; i < waves; i++)
        {
            float angle = position / MathF.Pow(100f, (float)i / waves);
            destination[2 * i] = MathF.Sin(angle) / MathF.Sqrt(waves);
            destination[2 * i + 1] = MathF.Cos(angle) / MathF.Sqrt(waves);
        }
    }

    /// <summary>A random projection to a head's components with orthonormal columns, so that scalar products survive it.</summary>
    private static float[][] Projection(Random random, int inputs)
    {
        float[][] columns = new float[inputs][];
        for (int i = 0; i < inputs; i++)
        {
            float[] column = Gaussian(random, HeadDim);
            for (int j = 0; j < i; j++)
            {
                float overlap = Dot(column, columns[j]);
                for (int c = 0; c < HeadDim; c++)
                {
                    column[c] -= overlap * columns[j][c];
                }
            }
            columns[i] = Normalised(column);
        }
        return columns;
    }

    private static void Apply(float[][] columns, ReadOnlySpan<float> input, float gain, Span<float> output)
    {
        output.Clear();
        for (int i = 0; i < columns.Length; i++)
        {
            for (int c = 0; c < output.Length; c++)
            {
                output[c] += gain * input[i] * columns[i][c];
            }
        }
    }

    private static float[] Gaussian(Random random, int count)
    {
        float[] values = new float[count];
        for (int i = 0; i < count; i++)
        {
            values[i] = (float)RandomNormal.Next(random);
        }
        return values;
    }

    private static float[] Normalised(float[] vector)
    {
        float length = MathF.Sqrt(Dot(vector, vector));
        for (int i = 0; i < vector.Length; i++)
        {
            vector[i] /= length;
        }
        return vector;
    }

    private static float Dot(ReadOnlySpan<float> a, ReadOnlySpan<float> b)
    {
        float sum = 0;
        for (int i = 0; i < a.Length; i++)
        {
            sum += a[i] * b[i];
        }
        return sum;
    }
}
