using System.Runtime.InteropServices;

namespace FlashAttention.Cli.Tensors;

/// <summary>A tensor over pairs of queries and keys in host memory, (batch, heads, queries, keys) without gaps: a bias, its gradient, or a mask.</summary>
internal abstract unsafe class HostPairs(DType type, TensorShape shape)
{
    public DType Type { get; } = type;

    public TensorShape Shape { get; } = shape;

    /// <summary>The tensor for calls on the CPU.</summary>
    public abstract AttentionTensor OnHost { get; }

    /// <summary>First element; the memory does not move.</summary>
    public abstract byte* Data { get; }

    /// <summary>Makes a tensor of zeros. Arrays bound it to 2^31 elements.</summary>
    public static HostPairs Allocate(DType type, TensorShape shape) => type switch
    {
        DType.Float32 => new Typed<float>(type, shape),
        DType.Float16 => new Typed<Half>(type, shape),
        DType.BFloat16 => new Typed<BFloat16>(type, shape),
        _ => new Typed<byte>(type, shape),
    };

    /// <summary>Makes a counterpart on a device: upload and download copy all elements and wait.</summary>
    /// <param name="device">A GPU.</param>
    /// <param name="owned">Receives the memory.</param>
    public abstract (AttentionTensor Tensor, Action Upload, Action Download) On(Device device, List<IDisposable> owned);

    /// <summary>Sets every element; a byte is whether the number is not 0.</summary>
    public void Fill(Func<double> next)
    {
        int size = Type.GetSizeBytes();
        for (long i = 0; i < Shape.ElementCount; i++)
        {
            double value = next();
            if (Type == DType.UInt8)
            {
                Data[i] = value != 0 ? (byte)1 : (byte)0;
            }
            else
            {
                ElementConversion.Write(Data + (i * size), HostTensor.Stored(Type), value);
            }
        }
    }

    /// <summary>Elements of a bias or its gradient as floats.</summary>
    public float[] ToFloats()
    {
        float[] values = new float[Shape.ElementCount];
        ElementConversion.ToFloats(Data, HostTensor.Stored(Type), values);
        return values;
    }

    /// <summary>Fills it with NaN, so that an element that is never written shows.</summary>
    public void Poison() => NativeMemory.Fill(Data, (nuint)(Shape.ElementCount * Type.GetSizeBytes()), 0xFF);

    private sealed class Typed<T> : HostPairs
        where T : unmanaged
    {
        private readonly T[] _values;

        public Typed(DType type, TensorShape shape)
            : base(type, shape)
        {
            _values = GC.AllocateArray<T>(checked((int)shape.ElementCount), pinned: true);
            OnHost = AttentionTensor.From(_values.AsMemory(), shape);
        }

        public override AttentionTensor OnHost { get; }

        public override byte* Data => (byte*)Marshal.UnsafeAddrOfPinnedArrayElement(_values, 0);

        public override (AttentionTensor Tensor, Action Upload, Action Download) On(Device device, List<IDisposable> owned)
        {
            DeviceTensor<T> tensor = DeviceTensor.Allocate<T>(device, Shape);
            owned.Add(tensor);
            return (tensor, () => tensor.CopyFrom(_values), () => tensor.CopyTo(_values));
        }
    }
}
