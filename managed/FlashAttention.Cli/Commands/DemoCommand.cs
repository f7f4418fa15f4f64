using System.Diagnostics;
using FlashAttention.Cli.Checking;
using FlashAttention.Cli.Demo;
using FlashAttention.Cli.Options;
using FlashAttention.Cli.Output;
using FlashAttention.Cli.Tensors;

namespace FlashAttention.Cli.Commands;

/// <summary>flashattn demo: causal attention over a text, fused beside naive.</summary>
internal static class DemoCommand
{
    private const int HeadDim = TextEmbedding.HeadDim;

    /// <summary>Rows of every head whose exact result is computed.</summary>
    private const int SampledRows = 48;

    /// <summary>Keys shown per head.</summary>
    private const int ShownKeys = 4;

    private static readonly int[] DefaultLengths = [512, 1024, 2048, 4096];
    private static readonly AttentionOptions Causal = new() { Mask = Mask.Causal(Alignment.BottomRight) };

    public static ExitCode Run(DemoOptions options, CliConsole console, CancellationToken cancellation)
    {
        int[] lengths = options.Lengths.Any() ? [.. options.Lengths.Distinct().Order()] : DefaultLengths;
        foreach (int length in lengths)
        {
            _ = OptionParsing.CheckRange("--len", length, 1, 131072);
        }
        int heads = (int)OptionParsing.CheckRange("--heads", options.Heads, 1, 64);
        int position = (int)OptionParsing.CheckRange("--query", options.Query ?? 0, 0, lengths[^1] - 1);
        DType? wanted = options.DType is null ? null : OptionParsing.ParseDType(options.DType);
        DemoText text = DemoText.Load(options.Text);
        Device device = OptionParsing.UseDevice(options);
        DType type = wanted ?? (device.Type == DeviceType.Cpu ? DType.Float32 : DType.Float16);
        TextEmbedding embedding = new(options.Seed);

        List<DemoRow> rows = [];
        DemoQuery? query = null;
        console.WithProgress("attending", lengths.Length, advance =>
        {
            foreach (int length in lengths)
            {
                byte[] bytes = text.Take(length);
                (float[] q, float[] k, float[] v) = embedding.Project(bytes, heads);
                using AttentionCall call = Bind(device, type, length, heads, q, k, v);
                // From here on the numbers that the kernel sees: rounded to the element type.
                (q, k, v) = (call.Q.ToFloats(), call.K.ToFloats(), call.V.ToFloats());
                rows.Add(Measure(call, q, k, v, length, heads, cancellation));
                if (length == lengths[^1])
                {
                    query = Ask(bytes, q, k, options.Query is null ? text.LastLetter(length) : position, heads);
                }
                advance();
            }
        });
        DemoReport report = new()
        {
            Device = device.ToString(),
            Dtype = OptionParsing.Name(type),
            Source = text.Source,
            Heads = heads,
            HeadDim = HeadDim,
            Seed = options.Seed,
            Lengths = [.. rows],
            Query = query!,
        };
        console.WriteReport(report, options, CliJson.Default.DemoReport, Write);
        return rows.All(row => row.FusedMaxError <= row.ErrorBound) ? ExitCode.Ok : ExitCode.Failed;
    }

    private static AttentionCall Bind(Device device, DType type, int length, int heads, float[] q, float[] k, float[] v)
    {
        return new AttentionCall(device, Rounded(q), Rounded(k), Rounded(v), Causal);

        HostTensor Rounded(float[] values)
        {
            HostTensor tensor = HostTensor.Allocate(type, new TensorShape(1, length, heads, HeadDim));
            tensor.SetFloats(values);
            return tensor;
        }
    }

    private static DemoRow Measure(AttentionCall call, float[] q, float[] k, float[] v, int length, int heads, CancellationToken cancellation)
    {
        call.Poison();
        call.Forward(); // the first call makes the workspace and wakes the threads
        call.Synchronize();
        double fusedSeconds = Best(3, () =>
        {
            cancellation.ThrowIfCancellationRequested();
            call.Forward();
            call.Synchronize();
        });
        call.Download();
        float[] fused = call.O.ToFloats();
        DemoRow row = new()
        {
            Length = length,
            Kernel = Attention.Describe(call.Problem(AttentionPass.Forward)).KernelName,
            FusedSeconds = fusedSeconds,
            FusedMaxError = SampledError(q, k, v, fused, length, heads),
            FusedScratchBytes = call.WorkspaceBytes + call.Lse.ByteCount,
            NaiveScratchBytes = NaiveAttention.ScratchBytes(length, heads),
            ErrorBound = ErrorBounds.UnitORepetitive(ErrorBounds.Measure(call, null), length),
        };
        if (row.NaiveScratchBytes > GC.GetGCMemoryInfo().TotalAvailableMemoryBytes / 2)
        {
            return row;
        }
        float[] o = new float[q.Length];
        int threads = Math.Min(FlashAttentionNative.CpuThreadCount, Environment.ProcessorCount);
        double naiveSeconds = Best(row.NaiveScratchBytes > 1L << 27 ? 1 : 2, () => NaiveAttention.Forward(q, k, v, o, length, heads, HeadDim, threads,
            cancellation));
        return row with { NaiveSeconds = naiveSeconds, NaiveMaxError = SampledError(q, k, v, o, length, heads) };
    }

    private static double Best(int runs, Action action)
    {
        double best = double.PositiveInfinity;
        for (int i = 0; i < runs; i++)
        {
            long start = Stopwatch.GetTimestamp();
            action();
            best = Math.Min(best, Stopwatch.GetElapsedTime(start).TotalSeconds);
        }
        return best;
    }

    /// <summary>Largest error of O over rows spread evenly over the sequence, the first and the last included.</summary>
    private static double SampledError(float[] q, float[] k, float[] v, float[] o, int length, int heads)
    {
        int count = Math.Min(SampledRows, length);
        double[] errors = new double[count * heads];
        Parallel.For(0, errors.Length, i =>
        {
            int row = count == 1 ? length - 1 : (int)((long)(i / heads) * (length - 1) / (count - 1));
            errors[i] = ExactRow.MaxError(q, k, v, o, row, i % heads, heads, HeadDim);
        });
        return errors.Aggregate(0.0, Math.Max);
    }

    private static DemoQuery Ask(byte[] text, float[] q, float[] k, int position, int heads)
    {
        List<DemoHead> answers = [];
        for (int head = 0; head < Math.Min(heads, 4); head++)
        {
            double[] weights = ExactRow.Weights(q, k, position, head, heads, HeadDim);
            DemoKey[] best = [.. Enumerable.Range(0, weights.Length).OrderByDescending(j => weights[j]).ThenByDescending(j => j).Take(ShownKeys)
                .Select(j => new DemoKey(j, weights[j], DemoText.Context(text, j, 14, 10)))];
            answers.Add(new DemoHead(head, TextEmbedding.Describe(head), best));
        }
        return new DemoQuery(position, DemoText.Context(text, position, 40, 0), [.. answers]);
    }

    private static void Write(DemoReport report, CliConsole console)
    {
        console.WriteLine($"Text: {report.Source}");
        console.WriteLine($"Every character is a query, a key and a value: {report.Heads} heads of {report.HeadDim}, {report.Dtype}, causal mask, "
            + $"on {report.Device}.");
        console.WriteTable(
            [">characters", ">fused", ">naive", ">speed-up", ">error fused", ">error naive", ">scratch fused", ">scratch naive"],
            report.Lengths.Select(Row));
        console.WriteLine($"fused: {report.Lengths[0].Kernel}. naive: the same in plain vectorised C#, all processors, with the matrix of scores in memory "
            + "(fp32).");
        console.WriteLine($"error: largest difference from a float64 computation over {SampledRows} rows of every head; at most "
            + $"{Format.Error(report.Lengths[^1].ErrorBound)} is allowed.");
        console.WriteLine();
        console.WriteTitle($"What does the last character of \"{report.Query.Context}\" attend to?");
        foreach (DemoHead head in report.Query.Heads)
        {
            console.WriteLine($"head {head.Head}, built to look for {head.LooksFor}:");
            foreach (DemoKey key in head.MostAttended)
            {
                console.WriteLine($"  {key.Weight,7:P1}  at {key.Position,6}  ...{key.Context}...");
            }
        }
    }

    private static string[] Row(DemoRow row) =>
    [
        Format.Integer(row.Length),
        Format.Time(row.FusedSeconds),
        row.NaiveSeconds is { } naive ? Format.Time(naive) : "does not fit",
        row.NaiveSeconds is { } slow ? $"{Format.Digits(slow / row.FusedSeconds)} x" : "-",
        Format.Error(row.FusedMaxError),
        row.NaiveMaxError is { } error ? Format.Error(error) : "-",
        Format.Bytes(row.FusedScratchBytes),
        Format.Bytes(row.NaiveScratchBytes),
    ];
}
