namespace FlashAttention.Tests;

/// <summary>Device tensors, streams, events, workspaces and graphs of the facade.</summary>
[TestFixtureSource(typeof(TestDevice), nameof(TestDevice.Wanted))]
public sealed class DeviceObjectTests(TestDevice device) : DeviceFixture(device)
{
    private static readonly TensorShape Shape = DeviceProblem.Shape;

    private Device Target => new((DeviceType)Device.Type, Device.Index);

    [Test]
    public void TensorsKeepWhatIsCopiedIn([Values] TensorLayout layout)
    {
        Half[] values = DeviceProblem.Values(1);
        using DeviceTensor<Half> tensor = DeviceTensor.From<Half>(Target, Shape, layout, values);
        using DeviceTensor<Half> copy = DeviceTensor.Allocate<Half>(Target, Shape, layout);
        using DeviceStream stream = DeviceStream.Create(Target);
        copy.CopyFrom(tensor, stream);
        stream.Synchronize();
        Assert.Multiple(() =>
        {
            Assert.That(copy.ToArray(), Is.EqualTo(values));
            Assert.That(copy.Length, Is.EqualTo(values.Length));
            Assert.That(copy.SizeBytes, Is.EqualTo(2 * values.Length));
            Assert.That(copy.Strides, Is.EqualTo(Shape.GetStrides(layout)));
            Assert.That(() => copy.CopyFrom(values.AsSpan(1)), Throws.ArgumentException);
        });
        copy.Fill(0, null);
        Target.Synchronize();
        Assert.That(copy.ToArray(), Is.All.EqualTo((Half)0));
    }

    /// <summary>The same numbers in both layouts give the same bits, on a stream and on the default stream.</summary>
    [Test]
    public void LayoutsAndStreamsGiveTheSameOutput()
    {
        using var problem = new DeviceProblem(Target);
        problem.Forward(null);
        Half[] expected = problem.O.ToArray();
        using DeviceStream stream = DeviceStream.Create(Target);
        problem.Forward(stream);
        stream.Synchronize();
        Assert.That(problem.O.ToArray(), Is.EqualTo(expected));
    }

    [Test]
    public void EventsTellTheTime()
    {
        using DeviceStream stream = DeviceStream.Create(Target);
        using DeviceEvent start = DeviceEvent.Create(Target);
        using DeviceEvent end = DeviceEvent.Create(Target);
        using var problem = new DeviceProblem(Target);
        Assert.That(start.IsComplete, "an event that was never recorded is complete");
        start.Record(stream);
        problem.Forward(stream);
        end.Record(stream);
        end.Synchronize();
        Assert.That(end.IsComplete);
        Assert.That(DeviceEvent.ElapsedMilliseconds(start, end), Is.GreaterThanOrEqualTo(0).And.LessThan(60000));
        stream.Wait(end);
    }

    [Test]
    public void AGraphReplaysBitwise()
    {
        using DeviceStream stream = DeviceStream.Create(Target);
        if (!Device.IsCuda)
        {
            FlashAttentionException refused = Assert.Throws<FlashAttentionException>(() => DeviceGraph.Capture(stream, _ => { }))!;
            Assert.That(refused.Status, Is.EqualTo(AttentionStatus.Unsupported));
            return;
        }
        using var problem = new DeviceProblem(Target);
        problem.Forward(stream);
        problem.Backward(stream);
        stream.Synchronize();
        Half[][] expected = problem.Results();
        problem.Clear();
        using DeviceGraph graph = DeviceGraph.Capture(stream, captured =>
        {
            problem.Forward(captured);
            problem.Backward(captured);
        });
        for (int replay = 0; replay < 3; replay++)
        {
            problem.Clear();
            graph.Launch(stream);
            stream.Synchronize();
            Half[][] actual = problem.Results();
            for (int i = 0; i < expected.Length; i++)
            {
                Assert.That(actual[i], Is.EqualTo(expected[i]), $"replay {replay}, result {i}");
            }
        }
    }

    [Test]
    public void StreamsAndThreadsDoNotDisturbEachOther()
    {
        using var reference = new DeviceProblem(Target);
        reference.Forward(null);
        reference.Backward(null);
        Target.Synchronize();
        Half[][] expected = reference.Results();
        Parallel.For(0, 12, new ParallelOptions { MaxDegreeOfParallelism = 4 }, _ =>
        {
            using DeviceStream stream = DeviceStream.Create(Target);
            using var problem = new DeviceProblem(Target);
            Target.Synchronize();
            problem.Forward(stream);
            problem.Backward(stream);
            stream.Synchronize();
            Half[][] actual = problem.Results();
            for (int i = 0; i < expected.Length; i++)
            {
                Assert.That(actual[i], Is.EqualTo(expected[i]));
            }
        });
    }

    [Test]
    public void AWorkspaceGrowsAndIsReused()
    {
        using var workspace = new Workspace(Target);
        workspace.Reserve(1000);
        nint pointer = workspace.Pointer;
        workspace.Reserve(500);
        Assert.Multiple(() =>
        {
            Assert.That(workspace.Pointer, Is.EqualTo(pointer));
            Assert.That(workspace.SizeBytes, Is.GreaterThanOrEqualTo(1000));
            Assert.That(() => workspace.Reserve(-1), Throws.InstanceOf<ArgumentOutOfRangeException>());
        });
    }

    [Test]
    public void ViewsSliceWithoutACopy()
    {
        using DeviceTensor<Half> packed = DeviceTensor.From<Half>(Target, Shape with { Heads = 12 }, DeviceProblem.Values(3, 12));
        using DeviceTensor<Half> output = DeviceTensor.Allocate<Half>(Target, Shape);
        using var workspace = new Workspace(Target);
        TensorView view = packed;
        TensorView Part(int head) => view.Slice(new TensorShape(0, 0, head, 0), Shape);
        Attention.Forward(Part(0), Part(4), Part(8), output, LseView.None, AttentionOptions.Default, workspace, null);
        Target.Synchronize();
        Half[] sliced = output.ToArray();

        using DeviceTensor<Half> q = DeviceTensor.From<Half>(Target, Shape, Heads(packed.ToArray(), 0));
        using DeviceTensor<Half> k = DeviceTensor.From<Half>(Target, Shape, Heads(packed.ToArray(), 4));
        using DeviceTensor<Half> v = DeviceTensor.From<Half>(Target, Shape, Heads(packed.ToArray(), 8));
        Attention.Forward(q, k, v, output, LseView.None, AttentionOptions.Default, workspace, null);
        Target.Synchronize();
        Assert.That(output.ToArray(), Is.EqualTo(sliced));
        Assert.That(() => view.Slice(new TensorShape(0, 0, 9, 0), Shape), Throws.InstanceOf<ArgumentOutOfRangeException>());
    }

    [Test]
    public void PinnedMemoryIsPlainMemory()
    {
        using var buffer = new PinnedBuffer<float>(1000);
        buffer.Span.Fill(2.5f);
        using DeviceTensor<float> tensor = DeviceTensor.From<float>(Target, new TensorShape(1, 10, 10, 10), buffer.Span);
        Assert.That(tensor.ToArray(), Is.All.EqualTo(2.5f));
    }

    // Heads [first, first + 4) of a packed tensor of 12 heads.
    private static Half[] Heads(Half[] packed, int first)
    {
        const int width = 4 * 64;
        return Enumerable.Range(0, packed.Length / (3 * width)).SelectMany(row => packed.AsSpan(row * 3 * width + first * 64, width).ToArray()).ToArray();
    }
}
