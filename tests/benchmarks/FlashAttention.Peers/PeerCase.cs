using static TorchSharp.torch;

namespace FlashAttention.Peers;

/// <summary>One shape and element type: tensors that both libraries read, outputs of each, and the comparison.</summary>
internal sealed unsafe class PeerCase : IDisposable
{
    private const int Heads = 8;

    private readonly DType type;
    private readonly TensorLayout layout;
    private readonly TensorShape shape;
    private readonly Tensor q, k, v, gradO;
    private readonly Tensor o, gradQ, gradK, gradV, lse;
    private readonly Workspace workspace = new(Device.Cpu);

    public PeerCase(int length, int headDim, DType type, TensorLayout layout)
    {
        this.type = type;
        this.layout = layout;
        shape = new TensorShape(1, length, Heads, headDim);
        q = Random();
        k = Random();
        v = Random();
        gradO = Random();
        o = zeros_like(q);
        gradQ = zeros_like(q);
        gradK = zeros_like(q);
        gradV = zeros_like(q);
        lse = zeros(Heads * length);
    }

    /// <summary>Compares, measures and prints a line.</summary>
    /// <returns>Whether the two libraries agree.</returns>
    public bool Run(int rounds, int threads)
    {
        OurForward();
        OurBackward();
        using Tensor torchQ = AsTorchInput(q), torchK = AsTorchInput(k), torchV = AsTorchInput(v), torchGradO = HeadsFirst(gradO);
        using Tensor torchO = nn.functional.scaled_dot_product_attention(torchQ, torchK, torchV);
        Timing forward = new(), torchForward = new(), backward = new(), torchBackward = new();
        IList<Tensor> torchGradients = [];
        torchBackward.Measure(() => torchGradients = TorchBackward());
        double[] differences = Compare(torchO, torchGradients);
        double peak = 0;
        for (int i = 0; i < rounds; ++i)
        {
            peak = Math.Max(peak, PeakRate.Measure(threads));
            forward.Measure(OurForward);
            torchForward.Measure(TorchForward);
            backward.Measure(OurBackward);
            torchBackward.Measure(() => Dispose(TorchBackward()));
        }

        double gflop = 4e-9 * Heads * shape.Sequence * shape.Sequence * shape.HeadDim;
        Console.WriteLine($"{$"S{shape.Sequence} d{shape.HeadDim}",-16}{type,-10}{forward.Text(gflop),16}{torchForward.Text(gflop),16}"
            + $"{backward.Text(2.5 * gflop),16}{torchBackward.Text(2.5 * gflop),16}{peak,10:F0}   "
            + string.Join(", ", differences.Select(x => x.ToString("e1"))));
        return differences.All(x => x <= Tolerance);

        void TorchForward()
        {
            using IDisposable noGrad = no_grad();
            nn.functional.scaled_dot_product_attention(torchQ, torchK, torchV).Dispose();
        }

        IList<Tensor> TorchBackward() => autograd.grad([torchO], [torchQ, torchK, torchV], [torchGradO], retain_graph: true);
    }

    public void Dispose()
    {
        Dispose([q, k, v, gradO, o, gradQ, gradK, gradV, lse]);
        workspace.Dispose();
    }

    /// <summary>Bound on the largest difference over the largest magnitude: a few units of the element type, since both round once or twice.</summary>
    private double Tolerance => type switch
    {
        DType.Float32 => 2e-5,
        DType.Float16 => 4e-3,
        _ => 3e-2,
    };

    private static void Dispose(IEnumerable<Tensor> tensors)
    {
        foreach (Tensor tensor in tensors)
        {
            tensor.Dispose();
        }
    }

    private static nint Address(Tensor tensor)
    {
        fixed (byte* data = tensor.bytes)
        {
            return (nint)data;
        }
    }

    private Tensor Random()
    {
        long[] sizes = layout == TensorLayout.BatchSequenceHeads ? [1, shape.Sequence, Heads, shape.HeadDim] : [1, Heads, shape.Sequence, shape.HeadDim];
        using Tensor values = randn(sizes);
        return values.to_type(type switch
        {
            DType.Float32 => ScalarType.Float32,
            DType.Float16 => ScalarType.Float16,
            _ => ScalarType.BFloat16,
        }).clone();
    }

    /// <summary>(batch, heads, sequence, head_dim), as libtorch wants it; the same memory.</summary>
    private Tensor HeadsFirst(Tensor tensor) => layout == TensorLayout.BatchSequenceHeads ? tensor.transpose(1, 2) : tensor.alias();

    private Tensor AsTorchInput(Tensor tensor)
    {
        using Tensor view = HeadsFirst(tensor);
        return view.detach().requires_grad_(true);
    }

    private TensorView View(Tensor tensor) => new(Address(tensor), type, Device.Cpu, shape, shape.GetStrides(layout));

    private void OurForward() => Attention.Forward(View(q), View(k), View(v), View(o), Address(lse), new AttentionOptions(), workspace, null);

    private void OurBackward() => Attention.Backward(View(q), View(k), View(v), View(o), View(gradO), Address(lse), View(gradQ), View(gradK), View(gradV),
        LseView.None, new AttentionOptions(), workspace, null);

    private double[] Compare(Tensor torchO, IList<Tensor> torchGradients)
    {
        Tensor[] ours = [gradQ, gradK, gradV];
        double[] result = [Difference(o, torchO), .. ours.Zip(torchGradients, Difference)];
        Dispose(torchGradients);
        return result;
    }

    /// <summary>Largest difference over the largest magnitude; NaN if either holds one.</summary>
    private double Difference(Tensor ours, Tensor theirs)
    {
        using Tensor left = HeadsFirst(ours).to_type(ScalarType.Float64), right = theirs.to_type(ScalarType.Float64);
        using Tensor worst = (left - right).abs().max(), largest = right.abs().max();
        return worst.item<double>() / largest.item<double>();
    }
}
