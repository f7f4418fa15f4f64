using FlashAttention.Interop;

namespace FlashAttention.Tests;

/// <summary>Lengths of sequences on a GPU: nothing waits for them, so they are neither checked nor known when a call returns.</summary>
[TestFixtureSource(typeof(TestDevice), nameof(TestDevice.Wanted))]
public sealed unsafe class SequenceLengthTests(TestDevice device) : DeviceFixture(device)
{
    private static readonly int[] Absurd = [-5, int.MaxValue, 130, 7, int.MinValue, 100_000, 64, 0];

    private static ProblemCase Problem(SequenceKind kind, int seed) => new()
    {
        Format = ElementFormat.Float16,
        Batch = kind is SequenceKind.Used or SequenceKind.LeftPadded ? 3 : 1,
        HeadsQ = 2,
        HeadsKv = 1,
        LenQ = 200,
        LenKv = 150,
        HeadDim = 64,
        HeadDimV = 64,
        Mask = MaskKind.BottomRight,
        Variants = new Variants { Sequences = kind },
        Seed = seed,
    };

    /// <summary>Whatever the arrays hold, nothing outside the outputs and the workspace is written.</summary>
    [Test]
    public void LengthsOutOfRangeTouchNothingElse(
        [Values(SequenceKind.Used, SequenceKind.LeftPadded, SequenceKind.Packed, SequenceKind.PackedUsed)] SequenceKind kind, [Range(0, 3)] int round)
    {
        RequireCuda();
        ProblemCase problem = Problem(kind, 70_000 + round);
        AttentionInputs inputs = AttentionInputs.Create(problem);
        int at = round;
        foreach (int[] lengths in new[] { inputs.Extra.OffsetsQ, inputs.Extra.OffsetsKv, inputs.Extra.UsedQ, inputs.Extra.UsedKv })
        {
            for (int i = 0; i < lengths.Length; i++)
            {
                lengths[i] = Absurd[at++ % Absurd.Length];
            }
            at += round;
        }
        using var call = new AttentionCall(Device, problem, inputs);
        call.Forward();
        call.Backward();
    }

    /// <summary>A captured call follows lengths that are written after its capture.</summary>
    [Test]
    public void ACapturedCallReadsTheLengthsWhenItRuns([Values(SequenceKind.Used, SequenceKind.LeftPadded)] SequenceKind kind)
    {
        RequireCuda();
        ProblemCase problem = Problem(kind, 71_000);
        AttentionInputs inputs = AttentionInputs.Create(problem);
        using var captured = new AttentionCall(Device, problem, inputs);
        byte[] before = RunCaptured(captured, null);
        inputs.Extra.UsedQ[1] = inputs.Extra.UsedQ[1] / 2 + 1;
        inputs.Extra.UsedKv[1] = inputs.Extra.UsedKv[1] / 2 + 1;
        using var other = new AttentionCall(Device, problem, inputs);
        other.Forward();
        byte[] expected = OutputOf(other);
        byte[] after = RunCaptured(captured, other);
        Assert.That(after, Is.EqualTo(expected));
        Assert.That(after, Is.Not.EqualTo(before));
    }

    private void RequireCuda()
    {
        if (!Device.IsCuda)
        {
            Assert.Ignore("The CPU checks the lengths before it computes.");
        }
    }

    /// <summary>Captures the forward pass, then takes over the lengths of another call, if there is one, and runs what was captured.</summary>
    private byte[] RunCaptured(AttentionCall call, AttentionCall? lengths)
    {
        fa_device device = Device.Handle;
        if (lengths is null)
        {
            call.Forward();
        }
        using var workspace = new GuardedBlock(Device, checked((long)call.ForwardWorkspaceBytes()), ElementFormat.Float32);
        fa_attention_options options = call.Options;
        fa_forward_params p = call.ForwardParams();
        p.options = &options;
        p.workspace = workspace.Address;
        p.workspace_bytes = (ulong)workspace.Bytes;
        nint stream = 0;
        nint graph = 0;
        NativeCall.Check(NativeMethods.fa_stream_create(device, &stream));
        try
        {
            p.stream = stream;
            NativeCall.Check(NativeMethods.fa_stream_begin_capture(device, stream));
            NativeCall.Check(NativeMethods.fa_attention_forward(&p));
            NativeCall.Check(NativeMethods.fa_stream_end_capture(device, stream, &graph));
            if (lengths is not null)
            {
                fa_attention_options from = lengths.Options;
                ulong bytes = (ulong)options.sequences->count * sizeof(int);
                NativeCall.Check(NativeMethods.fa_memory_copy(device, options.sequences->seqused_q, device, from.sequences->seqused_q, bytes, stream));
                NativeCall.Check(NativeMethods.fa_memory_copy(device, options.sequences->seqused_kv, device, from.sequences->seqused_kv, bytes, stream));
            }
            NativeCall.Check(NativeMethods.fa_graph_launch(graph, stream));
            NativeCall.Check(NativeMethods.fa_stream_synchronize(device, stream));
        }
        finally
        {
            NativeMethods.fa_graph_destroy(graph);
            NativeMethods.fa_stream_destroy(device, stream);
        }
        return OutputOf(call);
    }

    private byte[] OutputOf(AttentionCall call)
    {
        var bytes = new byte[call.O.Count * ElementFormat.Float16.Bytes];
        fixed (byte* target = bytes)
        {
            NativeCall.Check(NativeMethods.fa_memory_copy(TestDevice.Cpu.Handle, target, Device.Handle, call.O.Native.data, (ulong)bytes.Length, 0));
        }
        NativeCall.Check(NativeMethods.fa_device_synchronize(Device.Handle));
        return bytes;
    }
}
