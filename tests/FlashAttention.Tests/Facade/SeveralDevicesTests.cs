namespace FlashAttention.Tests;

/// <summary>Several CUDA devices in one process. Skipped where there are fewer than two, which is no fault of the machine.</summary>
[TestFixture]
public sealed class SeveralDevicesTests
{
    private Device[] devices = [];

    [OneTimeSetUp]
    public void RequireTwoDevices()
    {
        int count = TestSettings.Wants("cuda") ? Device.Count(DeviceType.Cuda) : 0;
        if (count < 2)
        {
            Assert.Ignore($"Needs two CUDA devices; this run has {count}.");
        }
        devices = [.. Enumerable.Range(0, count).Select(Device.Cuda)];
    }

    /// <summary>
    /// Kernels, their shared memory limits and their workspaces are set up for each device, whichever came first. Devices of one model give equal bits.
    /// </summary>
    [Test]
    public void EveryDeviceComputes()
    {
        Half[][] first = Compute(devices[0]);
        foreach (Device device in devices.Skip(1))
        {
            Half[][] results = Compute(device);
            bool sameModel = device.GetInfo().Name == devices[0].GetInfo().Name;
            for (int i = 0; i < first.Length; i++)
            {
                double distance = first[i].Zip(results[i], (a, b) => Math.Abs((double)a - (double)b)).Max();
                Assert.That(distance, Is.LessThanOrEqualTo(sameModel ? 0.0 : 4e-3), $"result {i} of {device} beside {devices[0]}");
            }
        }
    }

    [Test]
    public void DevicesWorkAtTheSameTime()
    {
        Half[][][] expected = [.. devices.Select(Compute)];
        Parallel.For(0, 6 * devices.Length, new ParallelOptions { MaxDegreeOfParallelism = 2 * devices.Length }, i =>
        {
            int which = i % devices.Length;
            Half[][] results = Compute(devices[which]);
            Assert.That(results, Is.EqualTo(expected[which]));
        });
    }

    /// <summary>One thread queues work on all devices before it waits for any.</summary>
    [Test]
    public void OneThreadKeepsAllDevicesBusy()
    {
        Half[][][] expected = [.. devices.Select(Compute)];
        DeviceStream[] streams = [.. devices.Select(DeviceStream.Create)];
        DeviceProblem[] problems = [.. devices.Select(device => new DeviceProblem(device))];
        try
        {
            for (int i = 0; i < devices.Length; i++)
            {
                devices[i].Synchronize();
                problems[i].Forward(streams[i]);
                problems[i].Backward(streams[i]);
            }
            for (int i = 0; i < devices.Length; i++)
            {
                streams[i].Synchronize();
                Assert.That(problems[i].Results(), Is.EqualTo(expected[i]), devices[i].ToString());
            }
        }
        finally
        {
            Array.ForEach(problems, problem => problem.Dispose());
            Array.ForEach(streams, stream => stream.Dispose());
        }
    }

    [Test]
    public void GraphsReplayOnTheirDevice()
    {
        foreach (Device device in devices.Reverse())
        {
            using var problem = new DeviceProblem(device);
            using DeviceStream stream = DeviceStream.Create(device);
            device.Synchronize();
            Half[][] expected = Compute(device);
            using DeviceGraph graph = DeviceGraph.Capture(stream, captured =>
            {
                problem.Forward(captured);
                problem.Backward(captured);
            });
            problem.Clear();
            graph.Launch(stream);
            stream.Synchronize();
            Assert.That(problem.Results(), Is.EqualTo(expected), device.ToString());
        }
    }

    [Test]
    public void TensorsAreCopiedBetweenDevices()
    {
        Half[] values = DeviceProblem.Values(5);
        using DeviceTensor<Half> source = DeviceTensor.From<Half>(devices[0], DeviceProblem.Shape, values);
        using DeviceTensor<Half> destination = DeviceTensor.Allocate<Half>(devices[1], DeviceProblem.Shape);
        destination.CopyFrom(source, null);
        devices[1].Synchronize();
        Assert.That(destination.ToArray(), Is.EqualTo(values));
    }

    /// <summary>What the facade sees from its own types, and what the library finds of a pointer that claims the wrong device: a message each, and both devices
    /// go on working.</summary>
    [Test]
    public void MemoryOfAnotherDeviceIsRefused()
    {
        using DeviceTensor<Half> here = DeviceTensor.From<Half>(devices[0], DeviceProblem.Shape, DeviceProblem.Values(6));
        using DeviceTensor<Half> there = DeviceTensor.From<Half>(devices[1], DeviceProblem.Shape, DeviceProblem.Values(7));
        using DeviceTensor<Half> o = DeviceTensor.Allocate<Half>(devices[0], DeviceProblem.Shape);
        using var workspace = new Workspace(devices[0]);
        using DeviceStream foreign = DeviceStream.Create(devices[1]);
        var claimed = new TensorView(there.Pointer, DType.Float16, devices[0], DeviceProblem.Shape);
        FlashAttentionException refused = Assert.Throws<FlashAttentionException>(
            () => Attention.Forward(here, claimed, here, o, LseView.None, AttentionOptions.Default, workspace, null))!;
        Assert.Multiple(() =>
        {
            Assert.That(refused.Status, Is.EqualTo(AttentionStatus.InvalidArgument));
            Assert.That(refused.Message, Does.Contain("k").And.Contain("CUDA device 0").And.Contain("CUDA device 1"));
            Assert.That(() => Attention.Forward(here, there, here, o, LseView.None, AttentionOptions.Default, workspace, null), Throws.ArgumentException);
            Assert.That(() => Attention.Forward(here, here, here, o, LseView.None, AttentionOptions.Default, workspace, foreign), Throws.ArgumentException);
        });
        Assert.That(Compute(devices[0]), Is.Not.Empty);
        Assert.That(Compute(devices[1]), Is.Not.Empty);
    }

    private static Half[][] Compute(Device device)
    {
        using var problem = new DeviceProblem(device);
        using DeviceStream stream = DeviceStream.Create(device);
        device.Synchronize();
        problem.Forward(stream);
        problem.Backward(stream);
        stream.Synchronize();
        return problem.Results();
    }
}
