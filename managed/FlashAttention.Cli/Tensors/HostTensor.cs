using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using FlashAttention.Cli.Files;

namespace FlashAttention.Cli.Tensors;

/// <summary>A dense tensor in host memory: its elements fill one range of bytes without gaps, in the order of <see cref="Layout"/>. Either memory of its
/// own or a view of a mapped file (read-only).</summary>
internal sealed unsafe class HostTensor : IDisposable
{
    /// <summary>The library moves rows fastest from addresses that are multiples of this.</summary>
    private const int Alignment = 64;

    private readonly TensorSource? _source;
    private void* _owned;

    private HostTensor(DType type, TensorShape shape, TensorLayout layout, int rank, void* owned, TensorSource? source)
    {
        Type = type;
        Shape = shape;
        Layout = layout;
        Rank = rank;
        _owned = owned;
        _source = source;
        Data = source is null ? (byte*)owned : source.Data;
    }

    public DType Type { get; }

    /// <summary>Logical sizes.</summary>
    public TensorShape Shape { get; }

    /// <summary>Memory order.</summary>
    public TensorLayout Layout { get; }

    /// <summary>Dimensions that the tensor has in a file: 4, or 3 without batch, or 2 without heads too.</summary>
    public int Rank { get; }

    public byte* Data { get; }

    public long ByteCount => Shape.ElementCount * Type.GetSizeBytes();

    /// <summary>How bfloat16 is spelt in the .npy file this came from; null otherwise.</summary>
    public string? BFloat16Descr { get; private init; }

    /// <summary>Sizes as in a file: in memory order, without the dimensions that <see cref="Rank"/> leaves out.</summary>
    public long[] FileShape => FileShapes.FromLogical(Shape, Layout, Rank);

    /// <summary>Allocates a tensor; its elements are undefined.</summary>
    public static HostTensor Allocate(DType type, TensorShape shape, TensorLayout layout = TensorLayout.BatchSequenceHeads, int rank = 4,
        string? bfloat16Descr = null)
    {
        long bytes = shape.ElementCount * type.GetSizeBytes();
        void* memory = NativeMemory.AlignedAlloc((nuint)Math.Max(bytes, 1), Alignment);
        return new HostTensor(type, shape, layout, rank, memory, null) { BFloat16Descr = bfloat16Descr };
    }

    /// <summary>Takes a tensor of a file: as it lies in the mapped file where that is possible, otherwise as a converted copy. Owns the source from here
    /// on.</summary>
    /// <param name="source">The tensor in the file.</param>
    /// <param name="layout">Order of the dimensions in the file.</param>
    /// <param name="convertTo">Element type wanted; null for the file's own.</param>
    public static HostTensor Load(TensorSource source, TensorLayout layout, DType? convertTo)
    {
        TensorShape shape = FileShapes.ToLogical(source.Label, source.Shape, layout);
        DType type = convertTo ?? source.Type switch
        {
            StoredType.Float32 => DType.Float32,
            StoredType.Float16 => DType.Float16,
            StoredType.BFloat16 => DType.BFloat16,
            _ => throw CliException.Usage($"{source.Label}: the elements are float64, which no kernel computes; "
                + "add --dtype float32 (or float16, bfloat16) to round them"),
        };
        bool asItLies = source.Type == Stored(type) && !source.FortranOrder && (nint)source.Data % type.GetSizeBytes() == 0;
        if (asItLies)
        {
            return new HostTensor(type, shape, layout, source.Shape.Length, null, source) { BFloat16Descr = source.BFloat16Descr };
        }
        HostTensor copy = Allocate(type, shape, layout, source.Shape.Length, source.BFloat16Descr);
        ElementConversion.CopyToCOrder(source, copy.Data, Stored(type));
        source.Dispose();
        return copy;
    }

    /// <summary>The tensor as an argument of the library.</summary>
    public TensorView View(Device device, nint data) => new(data, Type, device, Shape, Shape.GetStrides(Layout));

    public TensorView View() => View(Device.Cpu, (nint)Data);

    /// <summary>Elements as an array of floats, in logical (batch, sequence, heads, head_dim) order.</summary>
    public float[] ToFloats()
    {
        float[] values = new float[Shape.ElementCount];
        TensorStrides s = Shape.GetStrides(Layout);
        int at = 0;
        for (long b = 0; b < Shape.Batch; b++)
        {
            for (long i = 0; i < Shape.Sequence; i++)
            {
                for (long h = 0; h < Shape.Heads; h++)
                {
                    byte* row = Data + (b * s.Batch + i * s.Sequence + h * s.Heads) * Type.GetSizeBytes();
                    ElementConversion.ToFloats(row, Stored(Type), values.AsSpan(at, (int)Shape.HeadDim));
                    at += (int)Shape.HeadDim;
                }
            }
        }
        return values;
    }

    /// <summary>Fills a (batch, sequence, heads, head_dim) ordered tensor with rounded values.</summary>
    public void SetFloats(ReadOnlySpan<float> values)
    {
        if (Layout != TensorLayout.BatchSequenceHeads || values.Length != Shape.ElementCount)
        {
            throw new InvalidOperationException("The tensor has another order or size than the values.");
        }
        ElementConversion.FromFloats(values, Data, Stored(Type));
    }

    /// <summary>Fills memory of its own with normally distributed numbers of standard deviation <paramref name="gain"/>.</summary>
    public void FillNormal(Random random, double gain)
    {
        int bytes = Type.GetSizeBytes();
        long count = Shape.ElementCount;
        for (long i = 0; i < count; i++)
        {
            ElementConversion.Write((byte*)_owned + i * bytes, Stored(Type), gain * RandomNormal.Next(random));
        }
    }

    /// <summary>Fills memory of its own with NaN, so that an element that is never written shows.</summary>
    public void Poison() => NativeMemory.Fill(_owned, (nuint)ByteCount, 0xFF);

    /// <summary>The tensor as (batch, sequence, heads, head_dim), whatever the memory order. For tensors below 2^31 elements.</summary>
    public ReadOnlyTensorSpan<T> Span<T>()
        where T : unmanaged
    {
        TensorStrides s = Shape.GetStrides(Layout);
        // A dimension of size 1 must have stride 0 here.
        ReadOnlySpan<nint> sizes = [(nint)Shape.Batch, (nint)Shape.Sequence, (nint)Shape.Heads, (nint)Shape.HeadDim];
        Span<nint> strides = [(nint)s.Batch, (nint)s.Sequence, (nint)s.Heads, (nint)s.HeadDim];
        for (int i = 0; i < strides.Length; i++)
        {
            strides[i] = sizes[i] <= 1 ? 0 : strides[i];
        }
        return new ReadOnlyTensorSpan<T>((T*)Data, (nint)Shape.ElementCount, sizes, strides);
    }

    public static StoredType Stored(DType type) => type switch
    {
        DType.Float32 => StoredType.Float32,
        DType.Float16 => StoredType.Float16,
        _ => StoredType.BFloat16,
    };

    public void Dispose()
    {
        NativeMemory.AlignedFree(_owned);
        _owned = null;
        _source?.Dispose();
    }
}
