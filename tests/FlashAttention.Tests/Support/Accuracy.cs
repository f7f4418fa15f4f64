using FlashAttention.Interop;

namespace FlashAttention.Tests;

/// <summary>The accuracy check of one case.</summary>
internal static class Accuracy
{
    /// <summary>Runs a case forward and backward and compares with the oracle; where the device has no kernel for it, the refusal is checked instead.</summary>
    public static void Check(TestDevice device, ProblemCase problem)
    {
        AttentionInputs inputs = AttentionInputs.Create(problem);
        using var call = new AttentionCall(device, problem, inputs);
        if (Refusal.IsExpected(device, problem, call))
        {
            return;
        }
        if (Refusal.OfVariant(device, problem, call) is { } variant)
        {
            Unsupported.Count(device, variant);
        }
        OracleResult oracle = AttentionOracle.Compute(problem, inputs);
        AttentionResult naive = NaiveAttention.Compute(problem, inputs);

        call.Forward();
        AttentionResult actual = call.ReadForward(new AttentionResult(problem));
        Tolerance.AssertWithin("o", r => r.O, actual, oracle, naive, problem.Format);
        Tolerance.AssertWithin("lse", r => r.Lse, actual, oracle, naive, ElementFormat.Float32);

        call.Backward();
        call.ReadBackward(actual);
        Tolerance.AssertWithin("grad_q", r => r.GradQ, actual, oracle, naive, problem.Format);
        Tolerance.AssertWithin("grad_k", r => r.GradK, actual, oracle, naive, problem.Format);
        Tolerance.AssertWithin("grad_v", r => r.GradV, actual, oracle, naive, problem.Format);
        Tolerance.AssertWithin("grad_bias", r => r.GradBias, actual, oracle, naive, problem.BiasFormat);
        Tolerance.AssertWithin("grad_sinks", r => r.GradSinks, actual, oracle, naive, ElementFormat.Float32);
    }
}

/// <summary>What must happen where a device has no kernel for a case.</summary>
internal static unsafe class Refusal
{
    /// <summary>True if the device refuses the case, both passes have said so consistently and nothing was written. The CPU refuses nothing; CUDA nothing that
    /// <see cref="ProblemCase.FitsTensorCores"/>.</summary>
    public static bool IsExpected(TestDevice device, ProblemCase problem, AttentionCall call)
    {
        fa_status forward = call.Describe(fa_pass.FA_PASS_FORWARD, out _);
        fa_status backward = call.Describe(fa_pass.FA_PASS_BACKWARD, out _);
        if (forward == fa_status.FA_STATUS_OK && backward == fa_status.FA_STATUS_OK)
        {
            return false;
        }
        if (problem.Variants != Variants.None && (!device.IsCuda || problem.FitsTensorCores))
        {
            return false;
        }
        Assert.That(device.IsCuda && !problem.FitsTensorCores, Is.True, $"{device} refuses {problem}: {NativeCall.LastMessage}");
        AssertRefused(call);
        return true;
    }

    /// <summary>The variant of a case that a device has no kernel for; null if it computes both passes. The refusal names it and nothing was written.</summary>
    public static string? OfVariant(TestDevice device, ProblemCase problem, AttentionCall call)
    {
        foreach (fa_pass pass in Enum.GetValues<fa_pass>())
        {
            if (call.Describe(pass, out _) == fa_status.FA_STATUS_OK)
            {
                continue;
            }
            string message = NativeCall.LastMessage;
            string? named = problem.Variants.Names().FirstOrDefault(name => message.Contains(name, StringComparison.Ordinal));
            Assert.That(named, Is.Not.Null, $"{device} refuses {problem}, {pass}, and names none of its variants: {message}");
            AssertRefused(call);
            return $"{named}, {(pass == fa_pass.FA_PASS_FORWARD ? "forward" : "backward")}";
        }
        return null;
    }

    private static void AssertRefused(AttentionCall call)
    {
        TensorBuffer[] outputs = [call.O, call.Lse, .. call.Gradients];
        foreach (TensorBuffer output in outputs)
        {
            output.Poison();
            output.Block.BeforeCall();
        }
        if (call.Describe(fa_pass.FA_PASS_FORWARD, out _) != fa_status.FA_STATUS_OK)
        {
            fa_attention_options options = call.Options;
            fa_forward_params p = call.ForwardParams();
            p.options = &options;
            Assert.That(NativeMethods.fa_attention_forward(&p), Is.EqualTo(fa_status.FA_STATUS_UNSUPPORTED), "forward: " + NativeCall.LastMessage);
        }
        if (call.Describe(fa_pass.FA_PASS_BACKWARD, out _) != fa_status.FA_STATUS_OK)
        {
            fa_attention_options options = call.Options;
            fa_backward_params p = call.BackwardParams();
            p.options = &options;
            Assert.That(NativeMethods.fa_attention_backward(&p), Is.EqualTo(fa_status.FA_STATUS_UNSUPPORTED), "backward: " + NativeCall.LastMessage);
        }
        foreach (TensorBuffer output in outputs)
        {
            output.Block.AfterCall();
            output.Block.AssertUnchanged("a refused call");
        }
    }
}
