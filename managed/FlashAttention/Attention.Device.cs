using FlashAttention.Interop;

namespace FlashAttention;

public static partial class Attention
{
    /// <summary>Computes o (and lse) from q, k and v on a device. For CUDA the work is queued on the stream and the call returns at once; it never waits, and
    /// can be captured in a graph once the workspace is large enough.</summary>
    /// <param name="q">In: (batch, len_q, heads_q, head_dim).</param>
    /// <param name="k">In: (batch, len_kv, heads_kv, head_dim).</param>
    /// <param name="v">In: (batch, len_kv, heads_kv, head_dim_v).</param>
    /// <param name="o">Out: (batch, len_q, heads_q, head_dim_v). Must not overlap an input; every element is written.</param>
    /// <param name="lse">Out: batch · heads_q · len_q fp32 numbers in that order, a tensor or an address; <see cref="LseView.None"/> if not wanted.</param>
    /// <param name="options">Mask, scale and so on.</param>
    /// <param name="workspace">Scratch memory of the same device, grown if it is too small; no other call may use it at the same time.</param>
    /// <param name="stream">Stream of the device; null for the default stream.</param>
    /// <exception cref="ArgumentException">Arguments of different devices, or a tensor for <paramref name="lse"/> with another number of elements.</exception>
    /// <exception cref="ArgumentNullException"><paramref name="options"/> or <paramref name="workspace"/> is null.</exception>
    /// <exception cref="FlashAttentionException">The arguments contradict each other or are not supported (nothing was queued), or the driver
    /// refused.</exception>
    /// <exception cref="ObjectDisposedException">A tensor, the workspace or the stream was disposed.</exception>
    public static unsafe void Forward(
        in TensorView q,
        in TensorView k,
        in TensorView v,
        in TensorView o,
        LseView lse,
        AttentionOptions options,
        Workspace workspace,
        DeviceStream? stream)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(workspace);
        Device device = q.Device;
        Ensure.SameDevice(device, k.Device, nameof(k));
        Ensure.SameDevice(device, v.Device, nameof(v));
        Ensure.SameDevice(device, o.Device, nameof(o));
        Ensure.SameDevice(device, workspace.Device, nameof(workspace));
        lse.Check(device, in q, nameof(lse));
        DeviceStream.Check(stream, device, nameof(stream));

        using HandleLoan qLoan = new(q.Owner, nameof(q));
        using HandleLoan kLoan = new(k.Owner, nameof(k));
        using HandleLoan vLoan = new(v.Owner, nameof(v));
        using HandleLoan oLoan = new(o.Owner, nameof(o));
        using HandleLoan lseLoan = new(lse.Owner, nameof(lse));
        using HandleLoan streamLoan = DeviceStream.Lend(stream);

        NativeOptions nativeOptions = default;
        using OptionLoans loans = OptionLoans.Lend(options, &nativeOptions, device, q.Sizes.Batch, q.Sizes.Heads);
        fa_forward_params call = default;
        call.struct_size = (uint)sizeof(fa_forward_params);
        call.device = device.ToNative();
        q.CopyTo(&call.q);
        k.CopyTo(&call.k);
        v.CopyTo(&call.v);
        o.CopyTo(&call.o);
        call.lse = (float*)lse.Data;
        call.options = &nativeOptions.Options;
        call.stream = DeviceStream.ValueOf(stream);
        RunForward(&call, workspace);
    }

    /// <summary>Computes the gradients of q, k and v on a device; as asynchronous as the forward pass.</summary>
    /// <param name="q">In: (batch, len_q, heads_q, head_dim).</param>
    /// <param name="k">In: (batch, len_kv, heads_kv, head_dim).</param>
    /// <param name="v">In: (batch, len_kv, heads_kv, head_dim_v).</param>
    /// <param name="o">In: (batch, len_q, heads_q, head_dim_v), as the forward pass gave it for equal options.</param>
    /// <param name="gradO">In: gradient of o, shaped like o.</param>
    /// <param name="lse">In: batch · heads_q · len_q fp32 numbers, as the forward pass gave them; a tensor or an address.</param>
    /// <param name="gradQ">Out: gradient of q, shaped like q. No output may overlap an input or another output; every element is written.</param>
    /// <param name="gradK">Out: gradient of k, shaped like k.</param>
    /// <param name="gradV">Out: gradient of v, shaped like v.</param>
    /// <param name="gradLse">In: gradient of lse; <see cref="LseView.None"/> if lse took no part in the loss.</param>
    /// <param name="options">Equal to those of the forward pass.</param>
    /// <param name="workspace">Scratch memory of the same device, grown if it is too small; no other call may use it at the same time.</param>
    /// <param name="stream">Stream of the device; null for the default stream.</param>
    /// <exception cref="ArgumentException">Arguments of different devices, or a tensor for an lse argument with another number of elements.</exception>
    /// <exception cref="ArgumentNullException"><paramref name="options"/> or <paramref name="workspace"/> is null.</exception>
    /// <exception cref="FlashAttentionException">The arguments contradict each other or are not supported (nothing was queued), or the driver
    /// refused.</exception>
    /// <exception cref="ObjectDisposedException">A tensor, the workspace or the stream was disposed.</exception>
    public static void Backward(
        in TensorView q,
        in TensorView k,
        in TensorView v,
        in TensorView o,
        in TensorView gradO,
        LseView lse,
        in TensorView gradQ,
        in TensorView gradK,
        in TensorView gradV,
        LseView gradLse,
        AttentionOptions options,
        Workspace workspace,
        DeviceStream? stream) =>
        Backward(in q, in k, in v, in o, in gradO, lse, in gradQ, in gradK, in gradV, gradLse, ModifierGradients.None, options, workspace, stream);

    /// <summary>Computes the gradients of q, k, v and, where wanted, of bias and sinks on a device; as asynchronous as the forward pass.</summary>
    /// <param name="q">In: (batch, len_q, heads_q, head_dim).</param>
    /// <param name="k">In: (batch, len_kv, heads_kv, head_dim).</param>
    /// <param name="v">In: (batch, len_kv, heads_kv, head_dim_v).</param>
    /// <param name="o">In: (batch, len_q, heads_q, head_dim_v), as the forward pass gave it for equal options.</param>
    /// <param name="gradO">In: gradient of o, shaped like o.</param>
    /// <param name="lse">In: batch · heads_q · len_q fp32 numbers, as the forward pass gave them; a tensor or an address.</param>
    /// <param name="gradQ">Out: gradient of q, shaped like q. No output may overlap an input or another output; every element is written.</param>
    /// <param name="gradK">Out: gradient of k, shaped like k.</param>
    /// <param name="gradV">Out: gradient of v, shaped like v.</param>
    /// <param name="gradLse">In: gradient of lse; <see cref="LseView.None"/> if lse took no part in the loss.</param>
    /// <param name="gradients">Where the gradients of bias and sinks go; <see cref="ModifierGradients.None"/> if not wanted.</param>
    /// <param name="options">Equal to those of the forward pass.</param>
    /// <param name="workspace">Scratch memory of the same device, grown if it is too small; no other call may use it at the same time.</param>
    /// <param name="stream">Stream of the device; null for the default stream.</param>
    /// <exception cref="ArgumentException">Arguments of different devices, or a tensor for an lse argument with another number of elements.</exception>
    /// <exception cref="ArgumentNullException"><paramref name="gradients"/>, <paramref name="options"/> or <paramref name="workspace"/> is null.</exception>
    /// <exception cref="FlashAttentionException">The arguments contradict each other or are not supported (nothing was queued), or the driver
    /// refused.</exception>
    /// <exception cref="ObjectDisposedException">A tensor, the workspace or the stream was disposed.</exception>
    public static unsafe void Backward(
        in TensorView q,
        in TensorView k,
        in TensorView v,
        in TensorView o,
        in TensorView gradO,
        LseView lse,
        in TensorView gradQ,
        in TensorView gradK,
        in TensorView gradV,
        LseView gradLse,
        ModifierGradients gradients,
        AttentionOptions options,
        Workspace workspace,
        DeviceStream? stream)
    {
        ArgumentNullException.ThrowIfNull(gradients);
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(workspace);
        Device device = q.Device;
        Ensure.SameDevice(device, k.Device, nameof(k));
        Ensure.SameDevice(device, v.Device, nameof(v));
        Ensure.SameDevice(device, o.Device, nameof(o));
        Ensure.SameDevice(device, gradO.Device, nameof(gradO));
        Ensure.SameDevice(device, gradQ.Device, nameof(gradQ));
        Ensure.SameDevice(device, gradK.Device, nameof(gradK));
        Ensure.SameDevice(device, gradV.Device, nameof(gradV));
        Ensure.SameDevice(device, workspace.Device, nameof(workspace));
        lse.Check(device, in q, nameof(lse));
        gradLse.Check(device, in q, nameof(gradLse));
        DeviceStream.Check(stream, device, nameof(stream));

        using HandleLoan qLoan = new(q.Owner, nameof(q));
        using HandleLoan kLoan = new(k.Owner, nameof(k));
        using HandleLoan vLoan = new(v.Owner, nameof(v));
        using HandleLoan oLoan = new(o.Owner, nameof(o));
        using HandleLoan gradOLoan = new(gradO.Owner, nameof(gradO));
        using HandleLoan lseLoan = new(lse.Owner, nameof(lse));
        using HandleLoan gradQLoan = new(gradQ.Owner, nameof(gradQ));
        using HandleLoan gradKLoan = new(gradK.Owner, nameof(gradK));
        using HandleLoan gradVLoan = new(gradV.Owner, nameof(gradV));
        using HandleLoan gradLseLoan = new(gradLse.Owner, nameof(gradLse));
        using HandleLoan streamLoan = DeviceStream.Lend(stream);

        NativeOptions nativeOptions = default;
        using OptionLoans loans = OptionLoans.Lend(options, &nativeOptions, device, q.Sizes.Batch, q.Sizes.Heads);
        fa_backward_params call = default;
        using GradientLoans gradientLoans = GradientLoans.Lend(gradients, &call, device, q.Sizes.Heads);
        call.struct_size = (uint)sizeof(fa_backward_params);
        call.device = device.ToNative();
        q.CopyTo(&call.q);
        k.CopyTo(&call.k);
        v.CopyTo(&call.v);
        o.CopyTo(&call.o);
        gradO.CopyTo(&call.grad_o);
        gradQ.CopyTo(&call.grad_q);
        gradK.CopyTo(&call.grad_k);
        gradV.CopyTo(&call.grad_v);
        call.lse = (float*)lse.Data;
        call.grad_lse = (float*)gradLse.Data;
        call.options = &nativeOptions.Options;
        call.stream = DeviceStream.ValueOf(stream);
        RunBackward(&call, workspace);
    }

    /// <summary>Says what would run for a problem and what it costs, without running anything.</summary>
    /// <param name="problem">Shapes, element type, options and device.</param>
    /// <returns>The plan.</returns>
    /// <exception cref="ArgumentNullException"><paramref name="problem"/> is null.</exception>
    /// <exception cref="FlashAttentionException">The problem contradicts itself, or nothing computes it there; the message says why.</exception>
    public static AttentionPlan Describe(AttentionProblem problem)
    {
        NativeStatus.ThrowIfFailed(TryDescribe(problem, out AttentionPlan? plan));
        return plan!;
    }

    /// <summary>Says what would run for a problem and what it costs, or why nothing would.</summary>
    /// <param name="problem">Shapes, element type, options and device.</param>
    /// <param name="plan">The plan; null if nothing computes the problem.</param>
    /// <param name="reason">Why nothing computes it; null if something does.</param>
    /// <returns>False if no kernel of this build and device computes the problem, or the device does not exist.</returns>
    /// <exception cref="ArgumentNullException"><paramref name="problem"/> is null.</exception>
    /// <exception cref="FlashAttentionException">The problem contradicts itself.</exception>
    public static bool TryPlan(
        AttentionProblem problem,
        [System.Diagnostics.CodeAnalysis.NotNullWhen(true)] out AttentionPlan? plan,
        [System.Diagnostics.CodeAnalysis.NotNullWhen(false)] out string? reason)
    {
        fa_status status = TryDescribe(problem, out plan);
        if (status is fa_status.FA_STATUS_UNSUPPORTED or fa_status.FA_STATUS_DEVICE_UNAVAILABLE)
        {
            reason = NativeStatus.LastMessage();
            return false;
        }

        NativeStatus.ThrowIfFailed(status);
        reason = null;
        return plan is not null;
    }

    private static unsafe fa_status TryDescribe(AttentionProblem problem, out AttentionPlan? plan)
    {
        ArgumentNullException.ThrowIfNull(problem);
        ArgumentNullException.ThrowIfNull(problem.Options, "problem.Options");
        NativeOptions options = default;
        using OptionLoans loans = OptionLoans.Lend(problem.Options, &options, null, problem.Batch, problem.HeadsQ);
        fa_describe_params call = default;
        problem.ToNative(&call);
        call.options = &options.Options;
        fa_plan_description description = default;
        description.struct_size = (uint)sizeof(fa_plan_description);
        fa_status status = NativeMethods.fa_attention_describe(&call, &description);
        plan = status == fa_status.FA_STATUS_OK ? AttentionPlan.FromNative(&description) : null;
        return status;
    }
}
