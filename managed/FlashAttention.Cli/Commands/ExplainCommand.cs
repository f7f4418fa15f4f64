using FlashAttention.Cli.Checking;
using FlashAttention.Cli.Explain;
using FlashAttention.Cli.Options;
using FlashAttention.Cli.Output;
using FlashAttention.Cli.Tensors;

namespace FlashAttention.Cli.Commands;

/// <summary>flashattn explain: what would run, and what it costs beside naive attention.</summary>
internal static class ExplainCommand
{
    public static ExitCode Run(ExplainOptions options, CliConsole console)
    {
        AttentionProblem problem = Problem(options);
        (bool forward, bool backward) = OptionParsing.ParsePass(options.Pass);
        (string deviceName, DevicePeaks? peaks) = Device(options, problem.Device);
        List<ExplainPass> passes = [];
        if (forward)
        {
            passes.Add(Pass(problem with { Pass = AttentionPass.Forward }, peaks));
        }
        if (backward)
        {
            passes.Add(Pass(problem with { Pass = AttentionPass.Backward }, peaks));
        }
        ExplainReport report = new(Describe(problem), deviceName, [.. passes]);
        console.WriteReport(report, options, CliJson.Default.ExplainReport, ExplainText.Write);
        return passes.Any(pass => pass.Supported) ? ExitCode.Ok : ExitCode.Failed;
    }

    private static AttentionProblem Problem(ExplainOptions o)
    {
        const long MaxSize = 1L << 40;
        OptionParsing.CheckHeads(o.Heads, o.KvHeads ?? o.Heads, MaxSize);
        string[] names = OptionParsing.ParseNames("--with", o.With, ScoreDrawing.WithTensors);
        (int[] Q, int[] Kv)? packed = OptionParsing.ParsePacked(o);
        if (packed is not null && (o.LenQ is not null || o.LenKv is not null || o.Batch != 1))
        {
            throw CliException.Usage("--seq-lens: expected no --len-q, --len-kv and --batch beside it; the lengths say them");
        }
        if (o.AssumeComputeCapability is not null && (o.Device is not null || o.Threads is not null))
        {
            throw CliException.Usage("option --assume-cc contradicts another option given: --device and --threads are for devices of this machine");
        }
        long lengthQ = packed?.Q.Sum() ?? o.LenQ ?? 2048;
        AttentionProblem problem = new()
        {
            Device = o.AssumeComputeCapability is null ? OptionParsing.ParseDevice(o.Device ?? "cpu") : FlashAttention.Device.Cuda(0),
            DType = OptionParsing.ParseDType(o.DType),
            Batch = OptionParsing.CheckRange("--batch", o.Batch, 0, MaxSize),
            HeadsQ = o.Heads,
            HeadsKv = o.KvHeads ?? o.Heads,
            LengthQ = OptionParsing.CheckRange("--len-q", lengthQ, 0, MaxSize),
            LengthKv = OptionParsing.CheckRange("--len-kv", packed?.Kv.Sum() ?? o.LenKv ?? lengthQ, 0, MaxSize),
            HeadDim = OptionParsing.CheckRange("--dim", o.Dim, 1, MaxSize),
            HeadDimV = OptionParsing.CheckRange("--dim-v", o.DimV ?? o.Dim, 1, MaxSize),
            AssumedComputeCapability = Assumed(o),
            AssumedMultiprocessorCount = o.AssumeMultiprocessors ?? 0,
        };
        AttentionOptions attention = new()
        {
            Mask = OptionParsing.Narrow(OptionParsing.ParseMask(o.Mask), o),
            Deterministic = o.Deterministic,
            Kernel = OptionParsing.ParseKernel(o.Kernel),
        };
        return problem with { Options = ScoreDrawing.ForDescription(OptionParsing.WithScores(attention, o), names, problem, packed) };
    }

    private static int Assumed(ExplainOptions o)
    {
        if (o.AssumeMultiprocessors is not null && o.AssumeComputeCapability is null)
        {
            throw CliException.Usage("--assume-sms needs --assume-cc");
        }
        if (o.AssumeMultiprocessors is { } count)
        {
            _ = OptionParsing.CheckRange("--assume-sms", count, 1, 4096);
        }
        return (int)OptionParsing.CheckRange("--assume-cc", o.AssumeComputeCapability ?? 0, o.AssumeComputeCapability is null ? 0 : 10, 999);
    }

    private static (string Name, DevicePeaks? Peaks) Device(ExplainOptions o, Device device)
    {
        if (o.AssumeComputeCapability is { } capability)
        {
            string count = o.AssumeMultiprocessors is { } sms ? $", {sms} multiprocessors" : string.Empty;
            return ($"assumed GPU of compute capability {capability / 10}.{capability % 10}{count}",
                Roofline.OfComputeCapability(capability, o.AssumeMultiprocessors));
        }
        _ = OptionParsing.UseDevice(o);
        string name = device.GetInfo().Name;
        return ($"{device}, {name}", device.Type == DeviceType.Cuda ? Roofline.OfProduct(name) : null);
    }

    private static ExplainPass Pass(AttentionProblem problem, DevicePeaks? peaks)
    {
        bool backward = problem.Pass == AttentionPass.Backward;
        string name = backward ? "backward" : "forward";
        if (!Attention.TryPlan(problem, out AttentionPlan? plan, out string? reason))
        {
            return new ExplainPass { Pass = name, Supported = false, WhyNot = Format.Message(reason) };
        }
        CostInput input = new(problem.Batch, problem.HeadsQ, problem.HeadsKv!.Value, problem.LengthQ, problem.LengthKv, problem.HeadDim,
            problem.HeadDimV!.Value, problem.DType.GetSizeBytes(), plan.Exponentials);
        CostStep[] steps = backward ? CostModel.Backward(input, plan.TileKv) : CostModel.Forward(input, plan.TileQ);
        StepCost naive = steps.Aggregate(StepCost.Zero, (sum, step) => sum + step.Naive);
        StepCost fused = steps.Aggregate(StepCost.Zero, (sum, step) => sum + step.Fused);
        return new ExplainPass
        {
            Pass = name,
            Supported = true,
            Plan = plan,
            Steps = [.. steps.Select(step => new ExplainStep(step.Name, step.Note, Cost(step.Naive), Cost(step.Fused)))],
            Total = new ExplainStep("total", string.Empty, Cost(naive), Cost(fused)),
            NaiveScratchBytes = CostModel.NaiveScratchBytes(input, backward),
            Roofline = peaks is null || problem.DType == DType.Float32 ? null : Bound(peaks, naive, fused, plan.MinimumBytes),
        };
    }

    private static ExplainRoofline Bound(DevicePeaks peaks, StepCost naive, StepCost fused, double minimumBytes)
    {
        // Tiles that are streamed again come from the L2 cache for the most part, so the fused bound counts every input and output once.
        RooflineTimes fusedTimes = Roofline.Times(peaks, fused.Flops, fused.Exponentials, minimumBytes);
        RooflineTimes naiveTimes = Roofline.Times(peaks, naive.Flops, naive.Exponentials, naive.Bytes);
        return new ExplainRoofline(peaks.Name, fusedTimes.Bound, fusedTimes.Limit, naiveTimes.Bound, naiveTimes.Limit);
    }

    private static ExplainCost Cost(StepCost cost) => new(cost.Flops, cost.Exponentials, cost.BytesRead, cost.BytesWritten, cost.Intensity);

    private static string Describe(AttentionProblem p)
    {
        string scores = ScoreText.Describe(p.Options), more = (scores.Length > 0 ? $", {scores}" : string.Empty)
            + (p.Options.Deterministic ? ", deterministic" : string.Empty);
        return $"batch {p.Batch}, heads {p.HeadsQ} (kv {p.HeadsKv}), len_q {p.LengthQ}, len_kv {p.LengthKv}, dim {p.HeadDim} (v {p.HeadDimV}), "
            + $"{OptionParsing.Name(p.DType)}, mask {OptionParsing.Name(p.Options.Mask)}{more}";
    }
}
