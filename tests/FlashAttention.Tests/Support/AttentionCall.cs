using FlashAttention.Interop;

namespace FlashAttention.Tests;

/// <summary>One case laid out in guarded memory and run through the raw C ABI. Every run checks what must hold for every call: all elements of all outputs
/// are written, nothing else is, the workspace stays in its bounds.</summary>
internal sealed unsafe class AttentionCall : IDisposable
{
    private readonly TestDevice device;
    private readonly ProblemCase problem;
    private readonly List<GuardedBlock> blocks = [];
    private readonly VariantBuffers variants;

    public AttentionCall(TestDevice device, ProblemCase problem, AttentionInputs inputs)
    {
        this.device = device;
        this.problem = problem;
        if (problem.Layout == Layout.Packed && problem.LenQ == problem.LenKv)
        {
            (Q, K, V) = Packed();
            (GradQ, GradK, GradV) = Packed();
        }
        else
        {
            Q = Tensor(problem.SizesQ);
            K = problem.Layout == Layout.Broadcast ? BroadcastKeys() : Tensor(problem.SizesK);
            V = problem.Layout == Layout.Broadcast ? BroadcastValues() : Tensor(problem.SizesV);
            (GradQ, GradK, GradV) = (Tensor(problem.SizesQ), Tensor(problem.SizesK), Tensor(problem.SizesV));
        }
        (O, GradO) = (Tensor(problem.SizesO), Tensor(problem.SizesO));
        Lse = Rows();
        GradLse = Rows();
        variants = new VariantBuffers(device, problem, inputs.Extra, blocks);
        Q.Store(inputs.Q);
        K.Store(inputs.K);
        V.Store(inputs.V);
        GradO.Store(inputs.GradO);
        if (problem.GradLse)
        {
            GradLse.Store(inputs.GradLse);
        }
    }

    public TensorBuffer Q { get; }
    public TensorBuffer K { get; }
    public TensorBuffer V { get; }
    public TensorBuffer O { get; }
    public TensorBuffer Lse { get; }
    public TensorBuffer GradO { get; }
    public TensorBuffer GradLse { get; }
    public TensorBuffer GradQ { get; }
    public TensorBuffer GradK { get; }
    public TensorBuffer GradV { get; }

    /// <summary>Gradients of bias and sinks; null without them.</summary>
    public TensorBuffer? GradBias => variants.GradBias;
    public TensorBuffer? GradSinks => variants.GradSinks;

    /// <summary>All outputs of the backward pass.</summary>
    public TensorBuffer[] Gradients => [.. new[] { GradQ, GradK, GradV, GradBias, GradSinks }.OfType<TensorBuffer>()];

    public fa_attention_options Options
    {
        get
        {
            var options = new fa_attention_options
            {
                struct_size = (uint)sizeof(fa_attention_options),
                mask = (fa_mask)(int)problem.Mask,
                scale = problem.Scale,
                deterministic = problem.Deterministic ? 1 : 0,
            };
            variants.AddTo(ref options);
            return options;
        }
    }

    /// <summary>Parameters of the forward pass without options and workspace.</summary>
    public fa_forward_params ForwardParams(bool withLse = true) => new()
    {
        struct_size = (uint)sizeof(fa_forward_params),
        device = device.Handle,
        q = Q.Native,
        k = K.Native,
        v = V.Native,
        o = O.Native,
        lse = withLse ? (float*)Lse.Native.data : null,
    };

    /// <summary>Parameters of the backward pass without options and workspace.</summary>
    public fa_backward_params BackwardParams() => new()
    {
        struct_size = (uint)sizeof(fa_backward_params),
        device = device.Handle,
        q = Q.Native,
        k = K.Native,
        v = V.Native,
        o = O.Native,
        grad_o = GradO.Native,
        grad_q = GradQ.Native,
        grad_k = GradK.Native,
        grad_v = GradV.Native,
        lse = (float*)Lse.Native.data,
        grad_lse = problem.GradLse ? (float*)GradLse.Native.data : null,
        grad_bias = GradBias is null ? default : VariantBuffers.Pairs(GradBias),
        grad_sinks = GradSinks is null ? null : (float*)GradSinks.Native.data,
    };

    /// <summary>Runs the forward pass; fails the test if it does not succeed.</summary>
    public void Forward(bool withLse = true)
    {
        TensorBuffer[] outputs = withLse ? [O, Lse] : [O];
        Run(ForwardWorkspaceBytes(), outputs, (workspace, bytes, stream) =>
        {
            fa_attention_options options = Options;
            fa_forward_params p = ForwardParams(withLse);
            p.options = &options;
            p.workspace = workspace;
            p.workspace_bytes = bytes;
            p.stream = stream;
            return NativeMethods.fa_attention_forward(&p);
        });
    }

    /// <summary>Runs the backward pass on what <see cref="Forward"/> left in O and Lse.</summary>
    public void Backward() =>
        Run(BackwardWorkspaceBytes(), Gradients, (workspace, bytes, stream) =>
        {
            fa_attention_options options = Options;
            fa_backward_params p = BackwardParams();
            p.options = &options;
            p.workspace = workspace;
            p.workspace_bytes = bytes;
            p.stream = stream;
            return NativeMethods.fa_attention_backward(&p);
        });

    /// <summary>Runs the forward pass with another v and o, and waits for it.</summary>
    public void ForwardOn(fa_tensor v, fa_tensor o)
    {
        ulong bytes = ForwardWorkspaceBytes();
        using var workspace = new GuardedBlock(device, checked((long)bytes), ElementFormat.Float32);
        fa_attention_options options = Options;
        fa_forward_params p = ForwardParams();
        p.options = &options;
        p.v = v;
        p.o = o;
        p.workspace = workspace.Address;
        p.workspace_bytes = bytes;
        NativeCall.Check(NativeMethods.fa_attention_forward(&p));
        NativeCall.Check(NativeMethods.fa_device_synchronize(device.Handle));
    }

    /// <summary>Runs both passes on other tensors of the same shapes (q, k, v, o, grad_o, grad_q, grad_k, grad_v), and waits.</summary>
    public void RunOn(fa_tensor[] t)
    {
        ulong bytes = Math.Max(ForwardWorkspaceBytes(), BackwardWorkspaceBytes());
        using var workspace = new GuardedBlock(device, checked((long)bytes), ElementFormat.Float32);
        fa_attention_options options = Options;
        fa_forward_params forward = ForwardParams();
        (forward.q, forward.k, forward.v, forward.o) = (t[0], t[1], t[2], t[3]);
        forward.options = &options;
        forward.workspace = workspace.Address;
        forward.workspace_bytes = bytes;
        NativeCall.Check(NativeMethods.fa_attention_forward(&forward));
        fa_backward_params backward = BackwardParams();
        (backward.q, backward.k, backward.v, backward.o) = (t[0], t[1], t[2], t[3]);
        (backward.grad_o, backward.grad_q, backward.grad_k, backward.grad_v) = (t[4], t[5], t[6], t[7]);
        backward.options = &options;
        backward.workspace = workspace.Address;
        backward.workspace_bytes = bytes;
        NativeCall.Check(NativeMethods.fa_attention_backward(&backward));
        NativeCall.Check(NativeMethods.fa_device_synchronize(device.Handle));
    }

    public ulong ForwardWorkspaceBytes()
    {
        fa_attention_options options = Options;
        fa_forward_params p = ForwardParams();
        p.options = &options;
        ulong bytes = ulong.MaxValue;
        NativeCall.Check(NativeMethods.fa_attention_forward_workspace_size(&p, &bytes));
        return bytes;
    }

    public ulong BackwardWorkspaceBytes()
    {
        fa_attention_options options = Options;
        fa_backward_params p = BackwardParams();
        p.options = &options;
        ulong bytes = ulong.MaxValue;
        NativeCall.Check(NativeMethods.fa_attention_backward_workspace_size(&p, &bytes));
        return bytes;
    }

    /// <summary>What the device would run for the case: OK, or UNSUPPORTED.</summary>
    public fa_status Describe(
        fa_pass pass, out fa_plan_description description, int assumedCapability = 0, fa_kernel kernel = fa_kernel.FA_KERNEL_AUTO, bool deterministic = false)
    {
        fa_attention_options options = Options;
        options.kernel = kernel;
        options.deterministic |= deterministic ? 1 : 0;
        var p = new fa_describe_params
        {
            struct_size = (uint)sizeof(fa_describe_params),
            pass = pass,
            device = assumedCapability == 0 ? device.Handle : TestDevice.Cuda.Handle,
            assumed_compute_capability = assumedCapability,
            q = Q.Native,
            k = K.Native,
            v = V.Native,
            options = &options,
        };
        fa_plan_description plan = default;
        plan.struct_size = (uint)sizeof(fa_plan_description);
        fa_status status = NativeMethods.fa_attention_describe(&p, &plan);
        description = plan;
        return status;
    }

    /// <summary>Results as dense values; every element must have been written.</summary>
    public AttentionResult ReadForward(AttentionResult into)
    {
        into.O = O.LoadWritten("o");
        into.Lse = Lse.LoadWritten("lse");
        return into;
    }

    public AttentionResult ReadBackward(AttentionResult into)
    {
        into.GradQ = GradQ.LoadWritten("grad_q");
        into.GradK = GradK.LoadWritten("grad_k");
        into.GradV = GradV.LoadWritten("grad_v");
        into.GradBias = GradBias?.LoadWritten("grad_bias") ?? [];
        into.GradSinks = GradSinks?.LoadWritten("grad_sinks") ?? [];
        return into;
    }

    public void Dispose()
    {
        blocks.ForEach(block => block.Dispose());
        variants.Dispose();
    }

    private delegate fa_status Launch(void* workspace, ulong workspaceBytes, nint stream);

    private void Run(ulong workspaceBytes, TensorBuffer[] outputs, Launch launch)
    {
        using var workspace = new GuardedBlock(device, checked((long)workspaceBytes), ElementFormat.Float32);
        foreach (TensorBuffer output in outputs)
        {
            output.Poison();
        }
        blocks.ForEach(block => block.BeforeCall());
        workspace.BeforeCall();
        nint stream = 0;
        NativeCall.Check(NativeMethods.fa_stream_create(device.Handle, &stream));
        try
        {
            NativeCall.Check(launch(workspaceBytes == 0 ? null : workspace.Address, workspaceBytes, stream));
            NativeCall.Check(NativeMethods.fa_stream_synchronize(device.Handle, stream));
        }
        finally
        {
            NativeMethods.fa_stream_destroy(device.Handle, stream);
        }
        blocks.ForEach(block => block.AfterCall());
        workspace.AfterCall();
        foreach (GuardedBlock block in blocks)
        {
            block.AssertNothingElseWritten(problem.ToString(), outputs);
        }
        var whole = new TensorBuffer(workspace, ElementFormat.Float32, [1, 1, 1, (long)((workspaceBytes + 3) / 4)], [0, 0, 0, 1]);
        workspace.AssertNothingElseWritten("workspace", [whole]);
    }

    private TensorBuffer Tensor(long[] sizes) => TensorStorage.Allocate(device, problem.Format, sizes, problem.Layout, blocks);

    private TensorBuffer Rows() =>
        TensorStorage.Allocate(device, ElementFormat.Float32, [problem.Batch, problem.LenQ, problem.HeadsQ, 1], RowStrides(), 0, blocks);

    private long[] RowStrides() => [(long)problem.HeadsQ * problem.LenQ, 1, problem.LenQ, 1];

    private (TensorBuffer A, TensorBuffer B, TensorBuffer C) Packed()
    {
        TensorBuffer[] packed = TensorStorage.AllocatePacked(device, problem.Format, [problem.SizesQ, problem.SizesK, problem.SizesV], blocks);
        return (packed[0], packed[1], packed[2]);
    }

    private TensorBuffer BroadcastKeys()
    {
        long[] strides = TensorStorage.Bshd(problem.SizesK);
        strides[0] = 0;
        return TensorStorage.Allocate(device, problem.Format, problem.SizesK, strides, 0, blocks);
    }

    private TensorBuffer BroadcastValues()
    {
        long[] strides = [(long)problem.LenKv * problem.HeadDimV, problem.HeadDimV, 0, 1];
        return TensorStorage.Allocate(device, problem.Format, problem.SizesV, strides, 0, blocks);
    }
}
