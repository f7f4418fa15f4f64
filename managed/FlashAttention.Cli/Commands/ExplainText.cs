using FlashAttention.Cli.Output;

namespace FlashAttention.Cli.Commands;

/// <summary>The text form of an explanation.</summary>
internal static class ExplainText
{
    private static readonly string[] Columns =
        ["step", ">FLOPs naive", ">fused", ">exp naive", ">fused", ">read naive", ">fused", ">written naive", ">fused", ">FLOP/byte naive", ">fused"];

    public static void Write(ExplainReport report, CliConsole console)
    {
        console.WriteLine(report.Problem);
        console.WriteLine(report.Device);
        foreach (ExplainPass pass in report.Passes)
        {
            console.WriteLine();
            console.WriteTitle(pass.Pass);
            if (pass.Supported)
            {
                WritePlan(pass.Plan!, console);
                WriteCosts(pass, console);
            }
            else
            {
                console.WriteLine($"not computed: {pass.WhyNot}");
            }
        }
        if (!report.Passes.Any(pass => pass.Supported))
        {
            return;
        }
        console.WriteLine();
        console.WriteLine("naive: each step reads and writes whole matrices, masked pairs included; its backward pass reads the P of the forward pass. "
            + "Inputs and outputs count once.");
        console.WriteLine("fused: bytes count every load of a tile; tiles loaded again come from the cache for the most part. "
            + "FLOPs are those of the matrix products.");
    }

    private static void WritePlan(AttentionPlan plan, CliConsole console)
    {
        bool gpu = plan.RegistersPerThread > 0 || plan.SharedMemoryBytes > 0;
        console.WriteLine($"kernel     {plan.KernelName}: {plan.Reason}");
        string work = gpu
            ? $"{Format.Plural(plan.Stages, "stage")}, {Format.Plural(plan.Blocks, "block")}, {Format.Plural(plan.Launches, "launch", "es")}"
            : Format.Plural(plan.Blocks, "task");
        console.WriteLine($"tiles      {plan.TileQ} queries x {plan.TileKv} keys, {work}");
        console.WriteLine(gpu
            ? $"budget     {plan.Threads} threads x {plan.RegistersPerThread} registers, {Format.Bytes(plan.SharedMemoryBytes)} shared memory per block"
            : $"budget     {Format.Plural(plan.Threads, "thread")}");
    }

    private static void WriteCosts(ExplainPass pass, CliConsole console)
    {
        console.WriteTable(Columns, pass.Steps.Append(pass.Total!).Select(Row));
        foreach (ExplainStep step in pass.Steps)
        {
            console.WriteLine($"  {step.Name,-22} {step.Note}");
        }
        ExplainCost naive = pass.Total!.Naive, fused = pass.Total.Fused;
        double naiveBytes = naive.BytesRead + naive.BytesWritten, fusedBytes = fused.BytesRead + fused.BytesWritten;
        console.WriteLine($"moved      naive {Format.Bytes(naiveBytes)}, fused {Format.Bytes(fusedBytes)} of tile loads, "
            + $"at least {Format.Bytes(pass.Plan!.MinimumBytes)}");
        console.WriteLine($"scratch    naive {Format.Bytes(pass.NaiveScratchBytes!.Value)}, fused {Format.Bytes(pass.Plan.WorkspaceBytes)}");
        if (pass.Roofline is { } roofline)
        {
            console.WriteLine($"roofline   {roofline.Product}: fused at least {Format.Time(roofline.FusedSeconds)} ({roofline.FusedLimit}), "
                + $"naive at least {Format.Time(roofline.NaiveSeconds)} ({roofline.NaiveLimit})");
        }
        else
        {
            console.WriteLine("roofline   not known for this device and type");
        }
    }

    private static string[] Row(ExplainStep step) =>
    [
        step.Name,
        Count(step.Naive.Flops), Count(step.Fused.Flops),
        Count(step.Naive.Exponentials), Count(step.Fused.Exponentials),
        Format.Bytes(step.Naive.BytesRead), Format.Bytes(step.Fused.BytesRead),
        Format.Bytes(step.Naive.BytesWritten), Format.Bytes(step.Fused.BytesWritten),
        Ratio(step.Naive), Ratio(step.Fused),
    ];

    private static string Count(double value) => value == 0 ? "0" : Format.Count(value);

    private static string Ratio(ExplainCost cost) => cost.FlopsPerByte is { } ratio ? Format.Digits(ratio) : cost.Flops > 0 ? "on chip" : "-";
}
