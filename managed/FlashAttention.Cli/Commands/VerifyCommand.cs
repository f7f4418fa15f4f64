using FlashAttention.Cli.Checking;
using FlashAttention.Cli.Options;
using FlashAttention.Cli.Output;
using FlashAttention.Cli.Tensors;

namespace FlashAttention.Cli.Commands;

/// <summary>flashattn verify: random problems against the float64 reference.</summary>
internal static class VerifyCommand
{
    private const int DefaultCount = 60, QuickCount = 12;
    private static readonly string[] Outputs = ["O", "LSE", "dQ", "dK", "dV", "dBias", "dSinks"];

    private const string Passed = "ok", Failed = "FAILED", Unsupported = "not computed";

    public static ExitCode Run(VerifyOptions options, CliConsole console, CancellationToken cancellation)
    {
        int count = (int)OptionParsing.CheckRange("--count", options.Count ?? (options.Quick ? QuickCount : DefaultCount), 1, 1_000_000);
        int seed = options.Seed ?? (int)(DateTime.UtcNow.Ticks & 0x7FFF_FFFF);
        string[] names = OptionParsing.ParseNames("--with", options.With, [ScoreDrawing.None, .. ScoreDrawing.Names]);
        if (names.Length > 1 && names.Contains(ScoreDrawing.None))
        {
            throw CliException.Usage("--with: expected 'none' alone, got it beside other names");
        }
        string[]? variants = names is [] ? null : names is [ScoreDrawing.None] ? [] : names;
        Device device = OptionParsing.UseDevice(options);
        List<VerifyCase> cases = [];
        console.WithProgress($"checking {count} problems on {device}", count, advance =>
        {
            for (int i = 0; i < count; i++)
            {
                cancellation.ThrowIfCancellationRequested();
                cases.Add(Check(RandomProblem.Draw(seed, i, device.Type, options.Quick, variants), i, device));
                advance();
            }
        });
        VerifyReport report = new()
        {
            Device = device.ToString(),
            Seed = seed,
            Passed = cases.Count(each => each.Verdict == Passed),
            Failed = cases.Count(each => each.Verdict == Failed),
            Unsupported = cases.Count(each => each.Verdict == Unsupported),
            Cases = [.. cases],
        };
        console.WriteReport(report, options, CliJson.Default.VerifyReport, (_, _) => Write(report, options, console));
        // A run that computed nothing has verified nothing.
        return report.Failed == 0 && report.Passed > 0 ? ExitCode.Ok : ExitCode.Failed;
    }

    private static VerifyCase Check(RandomProblem problem, int index, Device device)
    {
        VerifyCase result = new(index, problem.ToString(), Failed, Kernel: null, Detail: null, Tensors: []);
        using AttentionCall call = problem.Bind(device);
        if (!Attention.TryPlan(call.Problem(AttentionPass.Forward), out AttentionPlan? plan, out string? reason)
            || !Attention.TryPlan(call.Problem(AttentionPass.Backward), out _, out reason))
        {
            return result with { Verdict = Unsupported, Detail = Format.Message(reason) };
        }
        try
        {
            VerifyTensor[] tensors = ReferenceCheck.Run(call, backward: true);
            return result with { Verdict = tensors.All(tensor => tensor.Passed) ? Passed : Failed, Kernel = plan.KernelName, Tensors = tensors };
        }
        catch (FlashAttentionException e)
        {
            return result with { Kernel = plan.KernelName, Detail = Format.Message(e.Message) };
        }
    }

    private static void Write(VerifyReport report, VerifyOptions options, CliConsole console)
    {
        console.WriteLine($"{report.Cases.Length} problems on {report.Device}, seed {report.Seed}: forward and backward against float64");
        string[] columns = ["#", "problem", "kernel", .. Outputs.Select(name => $">{name}"), "verdict"];
        console.WriteTable(columns, report.Cases.Select(Row));
        console.WriteLine("Numbers are the largest error as a part of what is allowed, by the tighter of two bounds: units of the element type; "
            + "twice the error of a naive");
        console.WriteLine("implementation in the element type and one rounding. Outputs were poisoned with NaN first.");
        foreach (VerifyCase failure in report.Cases.Where(each => each.Verdict == Failed))
        {
            string detail = failure.Detail ?? string.Join(", ", failure.Tensors.Where(tensor => !tensor.Passed).Select(Explain));
            console.WriteLine($"#{failure.Index} {failure.Problem}: {detail}");
        }
        string rest = report.Unsupported > 0 ? $", {report.Unsupported} not computed by this device" : string.Empty;
        console.WriteTitle($"{report.Passed} passed, {report.Failed} failed{rest}");
        if (report.Failed > 0)
        {
            string quick = (options.Quick ? " --quick" : string.Empty) + (options.With.Any() ? $" --with {string.Join(',', options.With)}" : string.Empty);
            console.WriteLine($"Repeat with: flashattn verify --device {report.Device} --seed {report.Seed}{quick} --count {report.Cases.Length}");
        }
    }

    private static string Explain(VerifyTensor tensor) =>
        $"{tensor.Name} is off by {Format.Error(tensor.MaxError)}, {Format.Digits(tensor.UnitBoundUsed)} x the unit bound and "
        + $"{Format.Digits(tensor.NaiveBoundUsed)} x the naive bound";

    private static string[] Row(VerifyCase each)
    {
        string Used(string name) => each.Tensors.FirstOrDefault(tensor => tensor.Name == name) is { } t
            ? Format.Digits(Math.Max(t.UnitBoundUsed, t.NaiveBoundUsed)) : "-";
        return [Format.Integer(each.Index), each.Problem, each.Kernel ?? "-", .. Outputs.Select(Used), each.Verdict];
    }
}
