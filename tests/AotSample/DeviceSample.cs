using System.Numerics.Tensors;
using FlashAttention;

namespace AotSample;

/// <summary>Forward and backward through device tensors, a stream, events, page-locked memory and, on CUDA, a graph; compared with the float64
/// reference.</summary>
internal sealed class DeviceSample<T>(Device device, Func<float, T> convert)
    where T : unmanaged
{
    private static readonly TensorShape ShapeQ = new(2, 150, 4, 64);
    private static readonly TensorShape ShapeKv = new(2, 170, 2, 64);
    private static readonly TensorShape ShapeLse = new(ShapeQ.Batch, ShapeQ.Heads, ShapeQ.Sequence, 1);

    private readonly Random _random = new(7);

    public bool Check(AttentionOptions options)
    {
        Tensor<T> q = RandomTensor(ShapeQ);
        Tensor<T> k = RandomTensor(ShapeKv);
        Tensor<T> v = RandomTensor(ShapeKv);
        Tensor<T> gradO = RandomTensor(ShapeQ);
        using DeviceTensor<T> deviceQ = ToDevice(q, ShapeQ);
        using DeviceTensor<T> deviceK = ToDevice(k, ShapeKv);
        using DeviceTensor<T> deviceV = ToDevice(v, ShapeKv);
        using DeviceTensor<T> deviceGradO = ToDevice(gradO, ShapeQ);
        using DeviceTensor<T> deviceO = DeviceTensor.Allocate<T>(device, ShapeQ);
        using DeviceTensor<T> deviceGradQ = DeviceTensor.Allocate<T>(device, ShapeQ);
        using DeviceTensor<T> deviceGradK = DeviceTensor.Allocate<T>(device, ShapeKv);
        using DeviceTensor<T> deviceGradV = DeviceTensor.Allocate<T>(device, ShapeKv);
        using DeviceTensor<float> deviceLse = DeviceTensor.Allocate<float>(device, ShapeLse);
        using Workspace workspace = new(device);
        using DeviceStream stream = DeviceStream.Create(device);
        using DeviceEvent start = DeviceEvent.Create(device);
        using DeviceEvent end = DeviceEvent.Create(device);
        AttentionPlan forward = Attention.Describe(AttentionProblem.From(AttentionPass.Forward, deviceQ, deviceK, deviceV, options));
        AttentionPlan backward = Attention.Describe(AttentionProblem.From(AttentionPass.Backward, deviceQ, deviceK, deviceV, options));
        workspace.Reserve(Math.Max(forward.WorkspaceBytes, backward.WorkspaceBytes));

        void BothPasses(DeviceStream queue)
        {
            Attention.Forward(deviceQ, deviceK, deviceV, deviceO, deviceLse, options, workspace, queue);
            Attention.Backward(
                deviceQ, deviceK, deviceV, deviceO, deviceGradO, deviceLse, deviceGradQ, deviceGradK, deviceGradV, LseView.None, options, workspace, queue);
        }

        start.Record(stream);
        BothPasses(stream);
        end.Record(stream);
        string name = $"{device} {typeof(T).Name}";
        float milliseconds = DeviceEvent.ElapsedMilliseconds(start, end);
        Console.WriteLine($"{name}: {forward.KernelName}, {backward.KernelName} on {device.GetInfo().Name}, {milliseconds:f3} ms");
        if (device.Type == DeviceType.Cuda)
        {
            // The same work once more from a graph, into outputs that were poisoned (all bits set is NaN) in between.
            using DeviceGraph graph = DeviceGraph.Capture(stream, BothPasses);
            deviceO.Fill(0xFF, stream);
            deviceGradQ.Fill(0xFF, stream);
            graph.Launch(stream);
            stream.Synchronize();
        }

        ReferenceOutput exact = ReferenceAttention.Forward<T>(q, k, v, options);
        ReferenceOutput naive = ReferenceAttention.Naive<T>(q, k, v, options);
        ReferenceGradients exactGradients = ReferenceAttention.Backward<T>(q, k, v, gradO, options);
        ReferenceGradients naiveGradients = ReferenceAttention.NaiveBackward<T>(q, k, v, gradO, default, options);
        bool right = Report($"{name}: o", deviceO, exact.O, naive.O);
        right &= Sample.Report($"{name}: lse", Sample.Distance(Array.ConvertAll(deviceLse.ToArray(), x => (double)x), exact.Lse), exact.Lse, naive.Lse);
        right &= Report($"{name}: grad q", deviceGradQ, exactGradients.Q, naiveGradients.Q);
        right &= Report($"{name}: grad k", deviceGradK, exactGradients.K, naiveGradients.K);
        right &= Report($"{name}: grad v", deviceGradV, exactGradients.V, naiveGradients.V);
        return right & CheckCopies(deviceQ, stream);
    }

    /// <summary>A tensor copied on a stream through page-locked memory, then to a second tensor and back, must come back bit by bit.</summary>
    private bool CheckCopies(DeviceTensor<T> source, DeviceStream stream)
    {
        using PinnedBuffer<T> host = new(checked((int)source.Length));
        using DeviceTensor<T> copy = DeviceTensor.Allocate<T>(device, source.Sizes);
        using DeviceTensor<T> second = DeviceTensor.Allocate<T>(device, source.Sizes);
        source.CopyTo(host.Span, stream);
        copy.CopyFrom(host.Span, stream);
        second.CopyFrom(copy, stream);
        stream.Synchronize();
        bool right = second.ToArray().AsSpan().SequenceEqual(source.ToArray());
        Console.WriteLine($"{device}: copies{(right ? string.Empty : " WRONG")}");
        return right;
    }

    private bool Report(string name, DeviceTensor<T> actual, double[] exact, double[] naive)
    {
        TensorShape sizes = actual.Sizes;
        Tensor<T> host = Tensor.Create(actual.ToArray(), Lengths(sizes));
        return Sample.Report(name, ReferenceAttention.MaxAbsoluteError<T>(host, exact), exact, naive);
    }

    private Tensor<T> RandomTensor(TensorShape sizes) => Sample.RandomTensor(Lengths(sizes), _random, convert);

    private DeviceTensor<T> ToDevice(Tensor<T> tensor, TensorShape sizes)
    {
        T[] elements = new T[sizes.ElementCount];
        tensor.FlattenTo(elements);
        return DeviceTensor.From<T>(device, sizes, elements);
    }

    private static nint[] Lengths(TensorShape sizes) => [(nint)sizes.Batch, (nint)sizes.Sequence, (nint)sizes.Heads, (nint)sizes.HeadDim];
}
