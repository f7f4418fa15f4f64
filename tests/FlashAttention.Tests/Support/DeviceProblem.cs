namespace FlashAttention.Tests;

/// <summary>A causal problem on a device with everything both passes need; gradients are deterministic.</summary>
internal sealed class DeviceProblem : IDisposable
{
    public static readonly TensorShape Shape = new(2, 96, 4, 64);

    private static readonly TensorShape LseShape = new(2, 4, 96, 1);
    private static readonly AttentionOptions Options = new() { Mask = Mask.Causal(Alignment.BottomRight), Deterministic = true };

    private readonly DeviceTensor<Half>[] inputs;
    private readonly DeviceTensor<Half>[] outputs;
    private readonly DeviceTensor<float> lse;
    private readonly Workspace workspace;

    public DeviceProblem(Device device)
    {
        inputs = [.. Enumerable.Range(10, 4).Select(seed => DeviceTensor.From<Half>(device, Shape, Values(seed)))];
        outputs = [.. Enumerable.Range(0, 4).Select(_ => DeviceTensor.Allocate<Half>(device, Shape))];
        lse = DeviceTensor.Allocate<float>(device, LseShape);
        workspace = new Workspace(device);
        // Before any capture: growing allocates, which a capture forbids.
        AttentionProblem problem = AttentionProblem.From(AttentionPass.Backward, inputs[0], inputs[1], inputs[2], Options);
        workspace.Reserve(Attention.Describe(problem).WorkspaceBytes);
        workspace.Reserve(Attention.Describe(problem with { Pass = AttentionPass.Forward }).WorkspaceBytes);
    }

    public DeviceTensor<Half> O => outputs[0];

    /// <summary>Normal values of the shape, with another number of heads if asked for.</summary>
    public static Half[] Values(int seed, int heads = 4)
    {
        var random = new GaussianSource(seed);
        return Enumerable.Range(0, (int)(Shape with { Heads = heads }).ElementCount).Select(_ => (Half)random.Next()).ToArray();
    }

    public void Forward(DeviceStream? stream) => Attention.Forward(inputs[0], inputs[1], inputs[2], O, lse, Options, workspace, stream);

    public void Backward(DeviceStream? stream) =>
        Attention.Backward(inputs[0], inputs[1], inputs[2], O, inputs[3], lse, outputs[1], outputs[2], outputs[3], LseView.None, Options, workspace,
            stream);

    public void Clear()
    {
        foreach (DeviceTensor<Half> output in outputs)
        {
            output.Fill(0xFF, null);
        }
        lse.Device.Synchronize();
    }

    public Half[][] Results() => [.. outputs.Select(output => output.ToArray())];

    public void Dispose()
    {
        foreach (DeviceTensor<Half> tensor in inputs.Concat(outputs))
        {
            tensor.Dispose();
        }
        lse.Dispose();
        workspace.Dispose();
    }
}
