using FlashAttention.Interop;

namespace FlashAttention.Tests;

/// <summary>One wrong call: what it must answer.</summary>
/// <param name="Name">What is wrong, for people; unique.</param>
/// <param name="Status">Value of fa_status that must come.</param>
/// <param name="Parts">What the message must contain: the argument, and what came or was expected.</param>
public sealed record BadCall(string Name, int Status, string[] Parts)
{
    /// <summary>Makes the call.</summary>
    internal Func<CallWorld, fa_status> Make { get; init; } = _ => throw new InvalidOperationException("no call given");

    /// <summary>Null: wrong on every device. Otherwise the name of the only device on which it is wrong.</summary>
    internal string? OnlyOn { get; init; }

    public override string ToString() => Name;
}

internal delegate void ForwardChange(ref fa_forward_params p, ref fa_attention_options options);

internal delegate void ForwardUse(ref fa_forward_params p);

internal delegate void BackwardChange(ref fa_backward_params p, ref fa_attention_options options);

internal delegate void DescribeChange(ref fa_describe_params p, ref fa_attention_options options, ref fa_plan_description description);

/// <summary>A valid small problem in guarded memory, which a bad call then spoils in one place.</summary>
internal sealed unsafe class CallWorld : IDisposable
{
    private static readonly ProblemCase Problem = new()
    {
        Format = ElementFormat.Float16,
        Batch = 2,
        HeadsQ = 4,
        HeadsKv = 2,
        LenQ = 5,
        LenKv = 7,
        HeadDim = 16,
        HeadDimV = 8,
        GradLse = true,
        Seed = 17,
    };

    private readonly List<string> written = [];
    private readonly TestDevice device;
    private readonly AttentionCall call;
    private readonly GuardedBlock workspace;
    private readonly GuardedBlock scratch;
    private readonly ulong workspaceBytes;

    public CallWorld(TestDevice device)
    {
        this.device = device;
        call = new AttentionCall(device, Problem, AttentionInputs.Create(Problem));
        fa_backward_params backward = call.BackwardParams();
        ulong bytes;
        NativeCall.Check(NativeMethods.fa_attention_backward_workspace_size(&backward, &bytes));
        fa_forward_params forward = call.ForwardParams();
        ulong forwardBytes;
        NativeCall.Check(NativeMethods.fa_attention_forward_workspace_size(&forward, &forwardBytes));
        workspaceBytes = Math.Max(Math.Max(bytes, forwardBytes), 64);
        workspace = new GuardedBlock(device, (long)workspaceBytes + 64, ElementFormat.Float32);
        scratch = new GuardedBlock(device, 4096, ElementFormat.Float32);
        foreach (TensorBuffer output in new[] { call.O, call.Lse, call.GradQ, call.GradK, call.GradV })
        {
            output.Poison();
        }
        Blocks.ForEach(block => block.BeforeCall());
    }

    public fa_device Handle => device.Handle;

    public TestDevice Device => device;

    /// <summary>4 KiB on the device that no tensor of the problem uses, guarded like them.</summary>
    public byte* DeviceScratch => scratch.Address;

    private List<GuardedBlock> Blocks =>
    [
        workspace, scratch, call.Q.Block, call.K.Block, call.V.Block, call.O.Block, call.Lse.Block, call.GradO.Block, call.GradLse.Block, call.GradQ.Block,
        call.GradK.Block, call.GradV.Block,
    ];

    /// <summary>Hands out the valid parameters.</summary>
    public void ForwardWith(ForwardUse use)
    {
        fa_attention_options options = call.Options;
        fa_forward_params p = call.ForwardParams();
        p.options = &options;
        p.workspace = workspace.Address;
        p.workspace_bytes = workspaceBytes;
        use(ref p);
    }

    public fa_status Forward(ForwardChange change)
    {
        fa_attention_options options = call.Options;
        fa_forward_params p = call.ForwardParams();
        p.options = &options;
        p.workspace = workspace.Address;
        p.workspace_bytes = workspaceBytes;
        change(ref p, ref options);
        return NativeMethods.fa_attention_forward(&p);
    }

    public fa_status Backward(BackwardChange change)
    {
        fa_attention_options options = call.Options;
        fa_backward_params p = call.BackwardParams();
        p.options = &options;
        p.workspace = workspace.Address;
        p.workspace_bytes = workspaceBytes;
        change(ref p, ref options);
        return NativeMethods.fa_attention_backward(&p);
    }

    public fa_status Describe(DescribeChange change)
    {
        fa_attention_options options = call.Options;
        var p = new fa_describe_params
        {
            struct_size = (uint)sizeof(fa_describe_params),
            device = device.Handle,
            q = call.Q.Native,
            k = call.K.Native,
            v = call.V.Native,
            options = &options,
        };
        fa_plan_description description = Filled();
        description.struct_size = (uint)sizeof(fa_plan_description);
        change(ref p, ref options, ref description);
        fa_plan_description before = description;
        fa_status status = NativeMethods.fa_attention_describe(&p, &description);
        Unchanged("description", new ReadOnlySpan<byte>(&before, sizeof(fa_plan_description))
            .SequenceEqual(new ReadOnlySpan<byte>(&description, sizeof(fa_plan_description))));
        return status;
    }

    public fa_status ForwardWorkspace(ForwardChange change)
    {
        fa_attention_options options = call.Options;
        fa_forward_params p = call.ForwardParams();
        p.options = &options;
        change(ref p, ref options);
        ulong bytes = 0xA5A5;
        fa_status status = NativeMethods.fa_attention_forward_workspace_size(&p, &bytes);
        Unchanged("out_bytes", bytes == 0xA5A5);
        return status;
    }

    public fa_status BackwardWorkspace(BackwardChange change)
    {
        fa_attention_options options = call.Options;
        fa_backward_params p = call.BackwardParams();
        p.options = &options;
        change(ref p, ref options);
        ulong bytes = 0xA5A5;
        fa_status status = NativeMethods.fa_attention_backward_workspace_size(&p, &bytes);
        Unchanged("out_bytes", bytes == 0xA5A5);
        return status;
    }

    /// <summary>Notes whether an out argument kept its value.</summary>
    public void Unchanged(string argument, bool unchanged)
    {
        if (!unchanged)
        {
            written.Add(argument);
        }
    }

    /// <summary>Fails unless the bad call has left all memory as it was.</summary>
    public void AssertNothingWritten()
    {
        Assert.That(written, Is.Empty, "out arguments that were written");
        foreach (GuardedBlock block in Blocks)
        {
            block.AfterCall();
            block.AssertUnchanged("a bad call");
        }
    }

    public void Dispose()
    {
        call.Dispose();
        workspace.Dispose();
        scratch.Dispose();
    }

    private static fa_plan_description Filled()
    {
        fa_plan_description description;
        new Span<byte>(&description, sizeof(fa_plan_description)).Fill(0xA5);
        return description;
    }
}
