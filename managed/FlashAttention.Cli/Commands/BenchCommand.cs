using System.Diagnostics;
using FlashAttention.Cli.Checking;
using FlashAttention.Cli.Options;
using FlashAttention.Cli.Output;
using FlashAttention.Cli.Tensors;

namespace FlashAttention.Cli.Commands;

/// <summary>flashattn bench: times over a grid, correctness first.</summary>
internal static class BenchCommand
{
    /// <summary>Length of the short problem of the same kind that is checked against float64 before anything is timed.</summary>
    private const int CheckedLength = 193;

    private sealed record Cell(DType Type, Mask Mask, int Dim, int Length, int LengthKv, bool Backward);

    public static ExitCode Run(BenchOptions options, CliConsole console, CancellationToken cancellation)
    {
        Cell[] grid = Grid(options);
        if (options.Svg is not null)
        {
            CheckSvg(options);
        }
        Device device = OptionParsing.UseDevice(options);
        DeviceInfo info = device.GetInfo();
        List<BenchCell> cells = [];
        console.WithProgress($"timing {grid.Length} cells on {device}", grid.Length, advance =>
        {
            foreach (Cell cell in grid)
            {
                cancellation.ThrowIfCancellationRequested();
                cells.Add(Measure(options, device, cell, cancellation));
                advance();
            }
        });
        BenchReport report = new()
        {
            Device = device.ToString(),
            DeviceName = info.Name,
            LibraryVersion = FlashAttentionNative.Version,
            LibraryBuild = FlashAttentionNative.BuildInfo,
            CpuThreads = FlashAttentionNative.CpuThreadCount,
            Date = DateTimeOffset.UtcNow,
            Cells = [.. cells],
        };
        console.WriteReport(report, options, CliJson.Default.BenchReport, Write);
        if (options.Svg is not null)
        {
            File.WriteAllText(options.Svg, SvgPlot.Draw(report));
        }
        // A run that timed nothing has not done what was asked for.
        return cells.All(cell => cell.MaxErrorOfBound is null or <= 1) && cells.Any(cell => cell.MedianSeconds is not null) ? ExitCode.Ok : ExitCode.Failed;
    }

    private static Cell[] Grid(BenchOptions o)
    {
        (int[] Q, int[] Kv)? packed = OptionParsing.ParsePacked(o);
        if (packed is not null && (o.Lengths.Any() || o.Batch != 1))
        {
            throw CliException.Usage("--seq-lens: expected no --len and --batch beside it; the lengths say them");
        }
        _ = OptionParsing.ParseNames("--with", o.With, ScoreDrawing.WithTensors);
        _ = OptionParsing.WithScores(AttentionOptions.Default, o);
        int[] lengths = packed is { } sequences ? [sequences.Q.Sum()] : Values("--len", o.Lengths, [512, 1024, 2048], 1, 1 << 24);
        int[] dims = Values("--dim", o.Dims, [64, 128], 1, 4096);
        Mask[] masks = [.. (o.Masks.Any() ? o.Masks : ["none", "causal"]).Select(text => OptionParsing.Narrow(OptionParsing.ParseMask(text), o))];
        DType[] types = [.. (o.DTypes.Any() ? o.DTypes : ["float16"]).Select(OptionParsing.ParseDType)];
        _ = OptionParsing.CheckRange("--batch", o.Batch, 1, 1 << 20);
        OptionParsing.CheckHeads(o.Heads, o.KvHeads ?? o.Heads, 1 << 20);
        _ = OptionParsing.CheckRange("--repeat", o.Repeat, 1, 100_000);
        if (!(o.Seconds > 0 && o.Seconds <= 3600))
        {
            throw CliException.Usage($"--seconds: expected more than 0 and at most 3600, got {o.Seconds}");
        }
        _ = OptionParsing.ParseKernel(o.Kernel);
        (bool forward, bool backward) = OptionParsing.ParsePass(o.Pass);
        bool[] passes = forward && backward ? [false, true] : [backward];
        return
        [
            .. from pass in passes from type in types from dim in dims from mask in masks from length in lengths
               select new Cell(type, mask, dim, length, packed?.Kv.Sum() ?? length, pass),
        ];

        static int[] Values(string option, IEnumerable<int> given, int[] otherwise, int minimum, int maximum)
        {
            int[] values = [.. given];
            foreach (int value in values)
            {
                _ = OptionParsing.CheckRange(option, value, minimum, maximum);
            }
            return values.Length > 0 ? values : otherwise;
        }
    }

    private static void CheckSvg(BenchOptions o)
    {
        string full = Path.GetFullPath(o.Svg!);
        if (Directory.Exists(full) || !Directory.Exists(Path.GetDirectoryName(full)))
        {
            throw CliException.Usage($"--svg {o.Svg}: not a file in an existing folder");
        }
        if (File.Exists(full) && !o.Overwrite)
        {
            throw CliException.Usage($"--svg {o.Svg}: the file exists; add --overwrite to replace it");
        }
    }

    private static BenchCell Measure(BenchOptions o, Device device, Cell cell, CancellationToken cancellation)
    {
        int kvHeads = o.KvHeads ?? o.Heads;
        BenchCell result = new()
        {
            Pass = cell.Backward ? "backward" : "forward",
            Dtype = OptionParsing.Name(cell.Type),
            Mask = OptionParsing.Name(cell.Mask),
            Scores = string.Empty,
            Batch = o.Batch,
            Heads = o.Heads,
            KvHeads = kvHeads,
            Length = cell.Length,
            Dim = cell.Dim,
        };
        // Inputs, outputs and gradients: q, o, k, v and the gradient of each; bias, its gradient and a mask. More than the memory that is there would end the
        // process without a word.
        double pairs = Pairs(o, cell), size = cell.Type.GetSizeBytes();
        double bytes = (4 * size * o.Batch * cell.Dim * (((double)cell.Length * o.Heads) + ((double)cell.LengthKv * kvHeads)))
            + (o.With.Contains(ScoreDrawing.Bias) ? 2 * size * pairs * o.Heads : 0) + (o.With.Contains(ScoreDrawing.Visible) ? pairs : 0);
        double available = GC.GetGCMemoryInfo().TotalAvailableMemoryBytes;
        if (bytes > available)
        {
            return result with { Note = $"not timed: the tensors need {Format.Bytes(bytes)} of host memory, this machine has {Format.Bytes(available)}" };
        }
        if (o.With.Contains(ScoreDrawing.Bias) && pairs * o.Heads > Array.MaxLength)
        {
            return result with { Note = $"not timed: a bias of {pairs * o.Heads:0} elements, at most {Array.MaxLength} are possible here" };
        }
        using AttentionCall call = Problem(o, cell, o.Batch, o.Heads, kvHeads, int.MaxValue).Bind(device);
        result = result with { Scores = ScoreText.Describe(call.Options) };
        if (!Attention.TryPlan(call.Problem(cell.Backward ? AttentionPass.Backward : AttentionPass.Forward), out AttentionPlan? plan, out string? reason))
        {
            return result with { Note = Format.Message(reason) };
        }
        int group = o.Heads / kvHeads;
        using (AttentionCall small = Problem(o, cell, 1, group, 1, CheckedLength).Bind(device))
        {
            double used = ReferenceCheck.Run(small, cell.Backward).Max(tensor => Math.Max(tensor.UnitBoundUsed, tensor.NaiveBoundUsed));
            result = result with { Kernel = plan.KernelName, MaxErrorOfBound = used };
            if (!(used <= 1))
            {
                return result with { Note = "wrong result: not timed" };
            }
        }
        double[] seconds = Time(call, cell.Backward, o.Repeat, o.Seconds, cancellation);
        double median = Median(seconds);
        return result with
        {
            Runs = seconds.Length,
            MedianSeconds = median,
            MinimumSeconds = seconds.Min(),
            Tflops = plan.Flops / median / 1e12,
            WorkspaceBytes = plan.WorkspaceBytes,
        };
    }

    /// <summary>Queries times keys of a sequence, of the longest if they are packed.</summary>
    private static double Pairs(BenchOptions o, Cell cell) =>
        OptionParsing.ParsePacked(o) is { } packed ? (double)packed.Q.Max() * packed.Kv.Max() : (double)cell.Length * cell.LengthKv;

    /// <summary>The problem of a cell, its sequences cut at a length.</summary>
    private static RandomProblem Problem(BenchOptions o, Cell cell, int batch, int heads, int kvHeads, int longest)
    {
        (int[] Q, int[] Kv)? packed = OptionParsing.ParsePacked(o) is not { } whole ? null
            : ([.. whole.Q.Select(n => Math.Min(n, longest))], [.. whole.Kv.Select(n => Math.Min(n, longest))]);
        TensorShape q = new(batch, packed?.Q.Sum() ?? Math.Min(cell.Length, longest), heads, cell.Dim);
        TensorShape kv = new(batch, packed?.Kv.Sum() ?? Math.Min(cell.LengthKv, longest), kvHeads, cell.Dim);
        AttentionOptions attention = OptionParsing.WithScores(
            new AttentionOptions { Mask = cell.Mask, Deterministic = o.Deterministic, Kernel = OptionParsing.ParseKernel(o.Kernel) }, o);
        ScoreInputs scores = ScoreDrawing.ForShape([.. o.With], q, kv, cell.Type, packed, new Random(o.Seed));
        return new RandomProblem(q, kv, kv, cell.Type, TensorLayout.BatchSequenceHeads, attention, scores, 1, o.Seed);
    }

    /// <summary>Times single runs: a GPU between two events of its stream, the CPU by the clock.</summary>
    private static double[] Time(AttentionCall call, bool backward, int repeat, double budgetSeconds, CancellationToken cancellation)
    {
        call.Forward();
        Action pass = backward ? call.Backward : call.Forward;
        pass();
        call.Synchronize();
        using DeviceEvent start = DeviceEvent.Create(call.Device), end = DeviceEvent.Create(call.Device);
        bool gpu = call.Device.Type == DeviceType.Cuda;
        List<double> seconds = [];
        long begin = Stopwatch.GetTimestamp();
        while (seconds.Count < repeat && (seconds.Count < 3 || Stopwatch.GetElapsedTime(begin).TotalSeconds < budgetSeconds))
        {
            cancellation.ThrowIfCancellationRequested();
            long clock = Stopwatch.GetTimestamp();
            start.Record();
            pass();
            end.Record();
            end.Synchronize();
            seconds.Add(gpu ? DeviceEvent.ElapsedMilliseconds(start, end) / 1e3 : Stopwatch.GetElapsedTime(clock).TotalSeconds);
        }
        return [.. seconds];
    }

    private static double Median(double[] values)
    {
        double[] sorted = [.. values.Order()];
        int middle = sorted.Length / 2;
        return sorted.Length % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
    }

    private static void Write(BenchReport report, CliConsole console)
    {
        string threads = report.Device == "cpu" ? $", {report.CpuThreads} threads" : string.Empty;
        console.WriteLine($"{report.Device}: {report.DeviceName}{threads}; library {report.LibraryVersion}, {report.LibraryBuild}");
        console.WriteTable(["pass", "type", "mask and scores", ">dim", ">length", ">median", ">best", ">runs", ">TFLOP/s", ">scratch", "kernel"],
            report.Cells.Select(cell => new[]
        {
            cell.Pass, cell.Dtype, cell.Scores.Length > 0 ? $"{cell.Mask}, {cell.Scores}" : cell.Mask, Format.Integer(cell.Dim), Format.Integer(cell.Length),
            cell.MedianSeconds is { } median ? Format.Time(median) : "-",
            cell.MinimumSeconds is { } best ? Format.Time(best) : "-",
            Format.Integer(cell.Runs),
            cell.Tflops is { } rate ? Format.Digits(rate) : "-",
            cell.WorkspaceBytes is { } bytes ? Format.Bytes(bytes) : "-",
            cell.Note ?? cell.Kernel ?? "-",
        }));
        console.WriteLine("Every kind of cell was checked against float64 first (a shorter sequence of the same kind). "
            + "FLOPs: 4 * visible pairs * dim, backward 2.5 times that.");
    }
}
