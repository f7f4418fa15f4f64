using FlashAttention.Cli.Checking;
using FlashAttention.Cli.Options;
using FlashAttention.Cli.Output;
using FlashAttention.Cli.Tensors;

namespace FlashAttention.Cli.Commands;

/// <summary>flashattn doctor: how the native library was found, and whether it works.</summary>
internal static class DoctorCommand
{
    public static ExitCode Run(DoctorOptions options, CliConsole console)
    {
        DoctorReport report = new()
        {
            Healthy = false,
            CliVersion = HelpPage.ProductVersion,
            LibraryFileName = FlashAttentionNative.LibraryFileName,
            ExpectedAbiVersion = FlashAttentionNative.ExpectedAbiVersion,
            Loading = [],
            Checks = [],
        };
        try
        {
            report = report with
            {
                LibraryVersion = FlashAttentionNative.Version,
                AbiVersion = FlashAttentionNative.AbiVersion,
                LibraryBuild = FlashAttentionNative.BuildInfo,
                Checks = Checks(),
            };
            report = report with { Healthy = report.Checks.All(check => check.Passed) };
        }
        catch (Exception e) when (IsLoadFailure(e))
        {
            report = report with { Checks = [new DoctorCheck("native library", false, "not loaded")] };
        }
        DoctorStep[] loading =
            [.. FlashAttentionNative.Trace().Select(step => new DoctorStep(step.Origin.ToString(), step.Path, step.Outcome.ToString(), step.Detail))];
        report = report with { Loading = loading };
        console.WriteReport(report, options, CliJson.Default.DoctorReport, Write);
        return report.Healthy ? ExitCode.Ok : report.LibraryVersion is null ? ExitCode.DeviceUnavailable : ExitCode.Failed;
    }

    private static bool IsLoadFailure(Exception e) => e is DllNotFoundException or BadImageFormatException
        || (e as FlashAttentionException ?? e.InnerException as FlashAttentionException)?.Status == AttentionStatus.LibraryUnavailable;

    private static DoctorCheck[] Checks()
    {
        List<DoctorCheck> checks = [Smoke(Device.Cpu)];
        int gpus = Device.Count(DeviceType.Cuda);
        if (gpus == 0)
        {
            checks.Add(new DoctorCheck("cuda", true,
                "no CUDA device here (no driver, no GPU, or a library built without CUDA); the CPU backend does not need one"));
        }
        for (int i = 0; i < gpus; i++)
        {
            checks.Add(Smoke(Device.Cuda(i)));
        }
        return [.. checks];
    }

    /// <summary>A small problem, forward and backward, against the float64 reference.</summary>
    private static DoctorCheck Smoke(Device device)
    {
        try
        {
            DeviceInfo info = device.GetInfo();
            TensorShape shape = new(1, 65, 2, 64);
            RandomProblem problem = new(shape, shape, shape, DType.Float16, TensorLayout.BatchSequenceHeads,
                new AttentionOptions { Mask = Mask.Causal(Alignment.BottomRight) }, ScoreInputs.None, 1, 1);
            using AttentionCall call = problem.Bind(device);
            VerifyTensor[] tensors = ReferenceCheck.Run(call, backward: true);
            string errors = string.Join(", ", tensors.Select(tensor => $"{tensor.Name} {Format.Error(tensor.MaxError)}"));
            return new DoctorCheck(device.ToString(), tensors.All(tensor => tensor.Passed), $"{info.Name}; forward and backward, largest errors: {errors}");
        }
        catch (FlashAttentionException e)
        {
            return new DoctorCheck(device.ToString(), false, Format.Message(e.Message));
        }
    }

    private static void Write(DoctorReport report, CliConsole console)
    {
        console.WriteLine($"flashattn {report.CliVersion}, looking for {report.LibraryFileName} with ABI {report.ExpectedAbiVersion}");
        console.WriteTable(["tried", "because of", "outcome", "detail"],
            report.Loading.Select(step => new[] { step.Path, step.Origin, step.Outcome, step.Detail }));
        if (report.LibraryVersion is not null)
        {
            console.WriteLine($"library {report.LibraryVersion}, ABI {report.AbiVersion}, {report.LibraryBuild}");
        }
        foreach (DoctorCheck check in report.Checks)
        {
            console.WriteLine($"{(check.Passed ? "ok    " : "FAILED")} {check.Name}: {check.Detail}");
        }
        if (report.LibraryVersion is null)
        {
            console.WriteLine("Build the native library (./build.sh build), or set FLASH_ATTENTION_LIBRARY to the file or its folder.");
        }
        console.WriteTitle(report.Healthy ? "All is well." : "Something is wrong.");
    }
}
