using System.Numerics.Tensors;
using FlashAttention;

namespace AotSample;

/// <summary>Small problems through every kind of entry point, each compared with the float64 reference.</summary>
internal static class Sample
{
    private const int Batch = 2;
    private const int LengthQ = 37;
    private const int LengthKv = 53;
    private const int HeadsQ = 4;
    private const int HeadsKv = 2;
    private const int HeadDim = 40;
    private const int HeadDimV = 24;
    private const int LseLength = Batch * HeadsQ * LengthQ;

    /// <summary>Forward and backward on host tensors. The field's rule: at most twice the error of a plain implementation in the element type, plus two
    /// fp32 roundings of the largest number.</summary>
    public static bool Check<T>(string name, AttentionOptions options, Func<float, T> convert)
        where T : unmanaged
    {
        Random random = new(20240229);
        Tensor<T> q = RandomTensor([Batch, LengthQ, HeadsQ, HeadDim], random, convert);
        Tensor<T> k = RandomTensor([Batch, LengthKv, HeadsKv, HeadDim], random, convert);
        Tensor<T> v = RandomTensor([Batch, LengthKv, HeadsKv, HeadDimV], random, convert);
        Tensor<T> gradO = RandomTensor([Batch, LengthQ, HeadsQ, HeadDimV], random, convert);
        Tensor<T> o = Tensor.CreateFromShape<T>([Batch, LengthQ, HeadsQ, HeadDimV]);
        Tensor<T> gradQ = Tensor.CreateFromShape<T>([Batch, LengthQ, HeadsQ, HeadDim]);
        Tensor<T> gradK = Tensor.CreateFromShape<T>([Batch, LengthKv, HeadsKv, HeadDim]);
        Tensor<T> gradV = Tensor.CreateFromShape<T>([Batch, LengthKv, HeadsKv, HeadDimV]);
        float[] lse = new float[LseLength];

        Attention.Forward<T>(q, k, v, o, lse, options);
        Attention.Backward<T>(q, k, v, o, gradO, lse, gradQ, gradK, gradV, options);

        ReferenceOutput exact = ReferenceAttention.Forward<T>(q, k, v, options);
        ReferenceOutput naive = ReferenceAttention.Naive<T>(q, k, v, options);
        ReferenceGradients exactGradients = ReferenceAttention.Backward<T>(q, k, v, gradO, options);
        ReferenceGradients naiveGradients = ReferenceAttention.NaiveBackward<T>(q, k, v, gradO, default, options);
        bool right = Report($"{name}: o", ReferenceAttention.MaxAbsoluteError<T>(o, exact.O), exact.O, naive.O);
        right &= Report($"{name}: lse", Distance(Array.ConvertAll(lse, x => (double)x), exact.Lse), exact.Lse, naive.Lse);
        right &= Report($"{name}: grad q", ReferenceAttention.MaxAbsoluteError<T>(gradQ, exactGradients.Q), exactGradients.Q, naiveGradients.Q);
        right &= Report($"{name}: grad k", ReferenceAttention.MaxAbsoluteError<T>(gradK, exactGradients.K), exactGradients.K, naiveGradients.K);
        right &= Report($"{name}: grad v", ReferenceAttention.MaxAbsoluteError<T>(gradV, exactGradients.V), exactGradients.V, naiveGradients.V);
        return right;
    }

    /// <summary>Masks that combine, modifiers in tensors and arrays, lengths of sequences.</summary>
    public static AttentionOptions EveryOption() => new()
    {
        Mask = Mask.Causal(Alignment.BottomRight) & Mask.Window(left: 30) & Mask.Chunk(40),
        Softcap = 5,
        Alibi = new Alibi(Alibi.StandardSlopes(HeadsQ)),
        Bias = new Bias(RandomTensor<float>([1, HeadsQ, 1, LengthKv], new Random(7), x => x)),
        Sinks = new Sinks(new float[HeadsQ]),
        Visible = VisibleMask.Keys(Enumerable.Repeat(true, Batch * LengthKv).ToArray(), Batch),
        BlockMask = new BlockMask(AttentionTensor.From<byte>(new byte[] { 1, 0, 1, 1 }, new TensorShape(1, 1, 2, 2)), 32, 32),
        Dropout = new Dropout(0.1f, 42),
        Sequences = Sequences.Padded(null, new[] { 53, 50 }),
    };

    /// <summary>Wrong calls must end in the right exceptions, with and without native code involved.</summary>
    public static bool CheckErrors()
    {
        Tensor<float> rank3 = Tensor.CreateFromShape<float>([2, 3, 4]);
        Tensor<float> q = Tensor.CreateFromShape<float>([1, 8, 2, 16]);
        Tensor<float> k = Tensor.CreateFromShape<float>([1, 8, 2, 24]);
        Tensor<float> o = Tensor.CreateFromShape<float>([1, 8, 2, 16]);
        bool right = Expect<ArgumentException>("rank 3", () => Attention.Forward<float>(q, rank3, q, o));
        right &= Expect<ArgumentException>("lse length", () => Attention.Forward<float>(q, q, q, o, new float[15], AttentionOptions.Default));
        right &= Expect<FlashAttentionException>("head_dim mismatch", () => Attention.Forward<float>(q, k, q, o));
        return right;
    }

    private static bool Expect<TException>(string name, Action call)
        where TException : Exception
    {
        try
        {
            call();
        }
        catch (TException e)
        {
            Console.WriteLine($"{name}: {e.Message}");
            return true;
        }

        Console.WriteLine($"{name}: no {typeof(TException).Name} WRONG");
        return false;
    }

    /// <summary>Normal random numbers, the same in every run.</summary>
    internal static Tensor<T> RandomTensor<T>(ReadOnlySpan<nint> sizes, Random random, Func<float, T> convert)
        where T : unmanaged
    {
        nint count = 1;
        foreach (nint size in sizes)
        {
            count *= size;
        }

        T[] elements = new T[count];
        for (int i = 0; i < elements.Length; ++i)
        {
            // Sum of uniform numbers: close enough to normal, and exactly reproducible.
            double sum = -6;
            for (int j = 0; j < 12; ++j)
            {
                sum += random.NextDouble();
            }

            elements[i] = convert((float)sum);
        }

        return Tensor.Create(elements, sizes);
    }

    /// <summary>Prints an error and tells whether it is within the bound.</summary>
    internal static bool Report(string name, double error, double[] exact, double[] naive)
    {
        double naiveError = Distance(naive, exact);
        double rounding = exact.Where(double.IsFinite).Select(Math.Abs).DefaultIfEmpty(0).Max() * Math.Pow(2, -23);
        bool right = error <= (2 * naiveError) + (2 * rounding);
        Console.WriteLine($"{name}: error {error:e2}, plain implementation {naiveError:e2}{(right ? string.Empty : " WRONG")}");
        return right;
    }

    /// <summary>Largest absolute difference; infinite where NaN or infinity are not at the same places.</summary>
    internal static double Distance(double[] a, double[] b)
    {
        double largest = 0;
        for (int i = 0; i < a.Length; ++i)
        {
            double error = a[i].Equals(b[i]) ? 0 : Math.Abs(a[i] - b[i]);
            largest = error <= largest ? largest : double.IsNaN(error) ? double.PositiveInfinity : error;
        }

        return largest;
    }
}
