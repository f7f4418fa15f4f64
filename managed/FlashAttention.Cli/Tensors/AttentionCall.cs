namespace FlashAttention.Cli.Tensors;

/// <summary>One attention problem with its host tensors and their counterparts on a device. Owns all of them.</summary>
internal sealed class AttentionCall : IDisposable
{
    private readonly List<(HostTensor Host, DeviceBuffer Buffer)> _tensors = [];
    private readonly List<IDisposable> _scoreMemory = [];
    private readonly AttentionOptions _deviceOptions;
    private readonly Workspace _workspace;
    private readonly Side _q, _k, _v, _o, _lse;
    private Side? _gradO, _gradLse, _gradQ, _gradK, _gradV;
    private ModifierGradients _modifierGradients = ModifierGradients.None;
    private Action? _uploadModifierGradients, _downloadModifierGradients;

    private sealed record Side(HostTensor Host, DeviceBuffer Buffer)
    {
        public TensorView View => Buffer.View;
    }

    /// <summary>Takes over the inputs, uploads them, and makes room for O and LSE, in the memory order of the queries.</summary>
    /// <param name="device">Where to compute.</param>
    /// <param name="q">Queries.</param>
    /// <param name="k">Keys.</param>
    /// <param name="v">Values.</param>
    /// <param name="options">What needs no memory.</param>
    /// <param name="scores">What does; null for nothing.</param>
    public AttentionCall(Device device, HostTensor q, HostTensor k, HostTensor v, AttentionOptions options, ScoreInputs? scores = null)
    {
        Device = device;
        Scores = scores ?? ScoreInputs.None;
        Options = Scores.OnHost(options);
        _workspace = new Workspace(device);
        try
        {
            _deviceOptions = Scores.On(device, options, _scoreMemory);
            _q = Add(q, upload: true);
            _k = Add(k, upload: true);
            _v = Add(v, upload: true);
            _o = Add(HostTensor.Allocate(q.Type, OutputShape, q.Layout, q.Rank, q.BFloat16Descr), upload: false);
            _lse = Add(HostTensor.Allocate(DType.Float32, LseShape), upload: false);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    public Device Device { get; }

    /// <summary>The options; what they refer to is in host memory.</summary>
    public AttentionOptions Options { get; }

    public ScoreInputs Scores { get; }

    public HostTensor Q => _q.Host;

    public HostTensor K => _k.Host;

    public HostTensor V => _v.Host;

    public HostTensor O => _o.Host;

    /// <summary>(batch, heads, len_q, 1).</summary>
    public HostTensor Lse => _lse.Host;

    public HostTensor GradQ => _gradQ!.Host;

    public HostTensor GradK => _gradK!.Host;

    public HostTensor GradV => _gradV!.Host;

    public HostTensor GradO => _gradO!.Host;

    /// <summary>Gradient of the bias; null if not wanted.</summary>
    public HostPairs? GradBias { get; private set; }

    /// <summary>Gradient of the sinks, in memory that does not move; null if not wanted.</summary>
    public float[]? GradSinks { get; private set; }

    /// <summary>Bytes of scratch memory that the calls made so far needed.</summary>
    public long WorkspaceBytes => _workspace.SizeBytes;

    public TensorShape OutputShape => Q.Shape with { HeadDim = V.Shape.HeadDim };

    public TensorShape LseShape => new(Q.Shape.Batch, Q.Shape.Heads, Q.Shape.Sequence, 1);

    /// <summary>Takes over the gradient of O (and of LSE), uploads it, and makes room for the other gradients.</summary>
    public void EnableBackward(HostTensor gradO, HostTensor? gradLse = null)
    {
        _gradO = Add(gradO, upload: true);
        _gradLse = gradLse is null ? null : Add(gradLse, upload: true);
        _gradQ = Add(Like(Q), upload: false);
        _gradK = Add(Like(K), upload: false);
        _gradV = Add(Like(V), upload: false);
        MakeModifierGradients();
    }

    /// <summary>Queues the forward pass.</summary>
    public void Forward() => Attention.Forward(_q.View, _k.View, _v.View, _o.View, _lse.View.Data, _deviceOptions, _workspace, null);

    /// <summary>Queues the backward pass; the forward pass must have been queued before.</summary>
    public void Backward() => Attention.Backward(_q.View, _k.View, _v.View, _o.View, _gradO!.View, _lse.View.Data, _gradQ!.View, _gradK!.View, _gradV!.View,
        _gradLse is null ? LseView.None : _gradLse.View.Data, _modifierGradients, _deviceOptions, _workspace, null);

    /// <summary>Waits for the device.</summary>
    public void Synchronize() => Device.Synchronize();

    /// <summary>Brings all results to the host.</summary>
    public void Download()
    {
        foreach (Side side in Outputs)
        {
            side.Buffer.Download();
        }
        _downloadModifierGradients?.Invoke();
    }

    /// <summary>Fills all outputs with NaN, on host and device.</summary>
    public void Poison()
    {
        foreach (Side side in Outputs)
        {
            side.Host.Poison();
            side.Buffer.Upload();
        }
        GradBias?.Poison();
        GradSinks?.AsSpan().Fill(float.NaN);
        _uploadModifierGradients?.Invoke();
    }

    public AttentionProblem Problem(AttentionPass pass) => AttentionProblem.From(pass, _q.View, _k.View, _v.View, _deviceOptions);

    public void Dispose()
    {
        _workspace.Dispose();
        foreach ((HostTensor host, DeviceBuffer buffer) in _tensors)
        {
            buffer.Dispose();
            host.Dispose();
        }
        _tensors.Clear();
        _scoreMemory.ForEach(memory => memory.Dispose());
        _scoreMemory.Clear();
    }

    private IEnumerable<Side> Outputs => new[] { _o, _lse, _gradQ, _gradK, _gradV }.OfType<Side>();

    private void MakeModifierGradients()
    {
        AttentionTensor? bias = null;
        AttentionVector<float>? sinks = null;
        if (Scores.WantGradBias)
        {
            GradBias = HostPairs.Allocate(Scores.Bias!.Type, Scores.Bias.Shape);
            bias = GradBias.OnHost;
            if (Device.Type != DeviceType.Cpu)
            {
                (bias, Action upload, Action download) = GradBias.On(Device, _scoreMemory);
                _uploadModifierGradients += upload;
                _downloadModifierGradients += download;
            }
        }
        if (Scores.WantGradSinks)
        {
            float[] values = GC.AllocateArray<float>(Scores.Sinks!.Length, pinned: true);
            GradSinks = values;
            sinks = values;
            if (Device.Type != DeviceType.Cpu)
            {
                DeviceArray<float> array = new(Device, values.Length);
                _scoreMemory.Add(array);
                sinks = array;
                _uploadModifierGradients += () => array.CopyFrom(values, null);
                _downloadModifierGradients += () => array.ToArray().CopyTo(values, 0);
            }
        }
        _modifierGradients = new ModifierGradients { Bias = bias, Sinks = sinks };
    }

    private static HostTensor Like(HostTensor tensor) => HostTensor.Allocate(tensor.Type, tensor.Shape, tensor.Layout, tensor.Rank, tensor.BFloat16Descr);

    private Side Add(HostTensor host, bool upload)
    {
        DeviceBuffer buffer;
        try
        {
            buffer = DeviceBuffer.Create(Device, host);
        }
        catch
        {
            host.Dispose();
            throw;
        }
        _tensors.Add((host, buffer));
        if (upload)
        {
            buffer.Upload();
        }
        return new Side(host, buffer);
    }
}
