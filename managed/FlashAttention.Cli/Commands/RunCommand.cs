using System.Diagnostics;
using System.Runtime.InteropServices;
using FlashAttention.Cli.Files;
using FlashAttention.Cli.Options;
using FlashAttention.Cli.Output;
using FlashAttention.Cli.Tensors;

namespace FlashAttention.Cli.Commands;

/// <summary>flashattn run: files in, attention (and its gradients), files out.</summary>
internal static unsafe class RunCommand
{
    public static ExitCode Run(RunOptions options, CliConsole console, CancellationToken cancellation)
    {
        List<(string Option, string Path)> outputs = CheckFiles(options);
        TensorLayout layout = options.Layout switch
        {
            "bshd" => TensorLayout.BatchSequenceHeads,
            "bhsd" => TensorLayout.BatchHeadsSequence,
            _ => throw CliException.Usage($"--layout: expected bshd or bhsd; got '{options.Layout}'"),
        };
        DType? convertTo = options.DType is null ? null : OptionParsing.ParseDType(options.DType);
        AttentionOptions attention = new()
        {
            Mask = OptionParsing.Narrow(OptionParsing.ParseCausal(options.Causal, options.CausalAlignment), options),
            Scale = OptionParsing.CheckPositive("--scale", options.Scale),
            Deterministic = options.Deterministic,
            Kernel = OptionParsing.ParseKernel(options.Kernel),
        };
        attention = OptionParsing.WithScores(attention, options);
        Device device = OptionParsing.UseDevice(options);

        using AttentionCall call = Load(options, layout, convertTo, device, attention);
        cancellation.ThrowIfCancellationRequested();
        AttentionPlan plan = Attention.Describe(call.Problem(AttentionPass.Forward));
        AttentionPlan? backwardPlan = options.GradO is null ? null : Attention.Describe(call.Problem(AttentionPass.Backward));

        double forwardSeconds = Time(call, call.Forward);
        cancellation.ThrowIfCancellationRequested();
        double? backwardSeconds = backwardPlan is null ? null : Time(call, call.Backward);
        call.Download();

        OutputFiles.Write(Results(options, call), options.Overwrite, cancellation);
        console.WriteReport(Report(call, plan, backwardPlan, forwardSeconds, backwardSeconds, outputs), options, CliJson.Default.RunReport,
            (report, _) => Write(report, outputs, console));
        return ExitCode.Ok;
    }

    /// <summary>Checks everything that can be checked without reading a file.</summary>
    private static List<(string Option, string Path)> CheckFiles(RunOptions o)
    {
        List<(string Option, string Path)> outputs = [];
        ScoreFiles.Check(o);
        (string Option, string? Path)[] gradientFiles =
            [("--grad-q", o.GradQ), ("--grad-k", o.GradK), ("--grad-v", o.GradV), ("--grad-bias", o.GradBias), ("--grad-sinks", o.GradSinks)];
        (string Option, string? Path)[] named = [("--out", o.Out), ("--lse", o.Lse), .. gradientFiles];
        foreach ((string option, string? path) in named)
        {
            if (path is not null)
            {
                outputs.Add((option, path));
            }
        }
        if (outputs.Count == 0)
        {
            throw CliException.Usage("nothing to write: name at least one of --out, --lse, --grad-q, --grad-k, --grad-v");
        }
        bool gradients = gradientFiles.Any(each => each.Path is not null);
        if (gradients && o.GradO is null)
        {
            string given = string.Join(", ", gradientFiles.Where(each => each.Path is not null).Select(each => each.Option));
            throw CliException.Usage($"gradients ({given}) need --grad-o, the gradient of the output");
        }
        if (o.GradO is not null && !gradients)
        {
            throw CliException.Usage("--grad-o is given, but none of --grad-q, --grad-k, --grad-v, --grad-bias, --grad-sinks");
        }
        if (o.GradLse is not null && o.GradO is null)
        {
            throw CliException.Usage("--grad-lse is given without --grad-o");
        }
        string[] inputs = [.. new[] { o.Q, o.K, o.V, o.GradO, o.GradLse }.OfType<string>(), .. ScoreFiles.Inputs(o)];
        foreach (string input in inputs)
        {
            _ = TensorFormat.Of(input);
        }
        OutputFiles.Check(outputs, inputs, o.Overwrite);
        return outputs;
    }

    private static AttentionCall Load(RunOptions o, TensorLayout layout, DType? convertTo, Device device, AttentionOptions attention)
    {
        List<HostTensor> loaded = [];
        try
        {
            HostTensor q = Input(o.Q, o.QName, "--q-name", convertTo);
            HostTensor k = Input(o.K, o.KName, "--k-name", convertTo);
            HostTensor v = Input(o.V, o.VName, "--v-name", convertTo);
            CheckTypes(("--k", k), q);
            CheckTypes(("--v", v), q);
            CheckShapes(q, k, v);
            HostTensor? gradO = o.GradO is null ? null : Input(o.GradO, o.GradOName, "--grad-o-name", convertTo);
            if (gradO is not null)
            {
                CheckTypes(("--grad-o", gradO), q);
                CheckShape("--grad-o", gradO.Shape, q.Shape with { HeadDim = v.Shape.HeadDim }, "the output");
            }
            HostTensor? gradLse = o.GradLse is null ? null : LoadLse(o, q);
            if (gradLse is not null)
            {
                loaded.Add(gradLse);
            }
            AttentionCall call = new(device, q, k, v, attention, ScoreFiles.Load(o, q, k));
            if (gradO is not null)
            {
                call.EnableBackward(gradO, gradLse);
            }
            return call;
        }
        catch
        {
            loaded.ForEach(tensor => tensor.Dispose());
            throw;
        }

        HostTensor Input(string path, string name, string nameOption, DType? type)
        {
            HostTensor tensor = HostTensor.Load(TensorSource.Open(path, name, nameOption, o.BFloat16), layout, type);
            loaded.Add(tensor);
            return tensor;
        }
    }

    /// <summary>Reads the gradient of LSE, whose shape has no layout: (batch, heads, seq), (heads, seq) or (seq).</summary>
    private static HostTensor LoadLse(RunOptions o, HostTensor q)
    {
        using TensorSource source = TensorSource.Open(o.GradLse!, o.GradLseName, "--grad-lse-name", rawBFloat16: false);
        TensorShape shape = new(q.Shape.Batch, q.Shape.Heads, q.Shape.Sequence, 1);
        long[] expected = FileShapes.Lse(q.Shape, q.Rank);
        if (!source.Shape.AsSpan().SequenceEqual(expected))
        {
            throw CliException.Usage($"--grad-lse: shape {StoredTypes.FormatShape(source.Shape)}; expected {StoredTypes.FormatShape(expected)}");
        }
        if (source.Type is not (StoredType.Float32 or StoredType.Float64))
        {
            throw CliException.Usage($"--grad-lse: the elements are {source.Type.Name()}; expected float32");
        }
        HostTensor tensor = HostTensor.Allocate(DType.Float32, shape);
        ElementConversion.CopyToCOrder(source, tensor.Data, StoredType.Float32);
        return tensor;
    }

    private static void CheckTypes((string Option, HostTensor Tensor) other, HostTensor q)
    {
        if (other.Tensor.Type != q.Type)
        {
            throw CliException.Usage($"{other.Option}: the elements are {OptionParsing.Name(other.Tensor.Type)}, those of --q {OptionParsing.Name(q.Type)}; "
                + "add --dtype to convert them to one type");
        }
    }

    private static void CheckShapes(HostTensor q, HostTensor k, HostTensor v)
    {
        if (k.Rank != q.Rank || v.Rank != q.Rank)
        {
            throw CliException.Usage($"--q, --k and --v have ranks {q.Rank}, {k.Rank} and {v.Rank}; expected equal ranks");
        }
        if (q.Shape.Heads < 1 || k.Shape.Heads < 1 || q.Shape.HeadDim < 1 || v.Shape.HeadDim < 1)
        {
            throw CliException.Usage($"heads and dim must not be 0; --q is {q.Shape}, --k {k.Shape}, --v {v.Shape} (batch, seq, heads, dim)");
        }
        CheckShape("--k", k.Shape, k.Shape with { Batch = q.Shape.Batch, HeadDim = q.Shape.HeadDim }, "the batch and dim of --q");
        CheckShape("--v", v.Shape, k.Shape with { HeadDim = v.Shape.HeadDim }, "the batch, seq and heads of --k");
        if (q.Shape.Heads % k.Shape.Heads != 0)
        {
            throw CliException.Usage($"--q has {q.Shape.Heads} heads, --k {k.Shape.Heads}; expected a multiple (is --layout right?)");
        }
    }

    private static void CheckShape(string option, TensorShape actual, TensorShape expected, string of)
    {
        if (actual != expected)
        {
            throw CliException.Usage($"{option}: (batch, seq, heads, dim) is {actual}; expected {expected} to fit {of} (is --layout right?)");
        }
    }

    private static double Time(AttentionCall call, Action pass)
    {
        long start = Stopwatch.GetTimestamp();
        pass();
        call.Synchronize();
        return Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    private static List<OutputTensor> Results(RunOptions o, AttentionCall call)
    {
        List<OutputTensor> tensors = [];
        Add(o.Out, "o", call.O);
        if (o.Lse is not null)
        {
            tensors.Add(new OutputTensor(o.Lse, "lse", StoredType.Float32, FileShapes.Lse(call.Q.Shape, call.Q.Rank), call.Lse.Data));
        }
        if (o.GradO is not null)
        {
            Add(o.GradQ, "grad_q", call.GradQ);
            Add(o.GradK, "grad_k", call.GradK);
            Add(o.GradV, "grad_v", call.GradV);
            if (call.GradBias is { } bias)
            {
                TensorShape s = bias.Shape;
                tensors.Add(new OutputTensor(o.GradBias!, "grad_bias", HostTensor.Stored(bias.Type), [s.Batch, s.Sequence, s.Heads, s.HeadDim], bias.Data));
            }
            if (call.GradSinks is { } sinks)
            {
                byte* data = (byte*)Marshal.UnsafeAddrOfPinnedArrayElement(sinks, 0);
                tensors.Add(new OutputTensor(o.GradSinks!, "grad_sinks", StoredType.Float32, [sinks.Length], data));
            }
        }
        return tensors;

        void Add(string? path, string name, HostTensor tensor)
        {
            if (path is not null)
            {
                tensors.Add(new OutputTensor(path, name, HostTensor.Stored(tensor.Type), tensor.FileShape, tensor.Data, tensor.BFloat16Descr));
            }
        }
    }

    private static RunReport Report(AttentionCall call, AttentionPlan plan, AttentionPlan? backwardPlan, double forwardSeconds, double? backwardSeconds,
        List<(string Option, string Path)> outputs) => new()
        {
            Device = call.Device.ToString(),
            Dtype = OptionParsing.Name(call.Q.Type),
            Q = Sizes(call.Q.Shape),
            K = Sizes(call.K.Shape),
            V = Sizes(call.V.Shape),
            Mask = OptionParsing.Name(call.Options.Mask),
            Scores = ScoreText.Describe(call.Options),
            Kernel = plan.KernelName,
            ForwardSeconds = forwardSeconds,
            ForwardFlops = plan.Flops,
            BackwardKernel = backwardPlan?.KernelName,
            BackwardSeconds = backwardSeconds,
            BackwardFlops = backwardPlan?.Flops,
            WorkspaceBytes = call.WorkspaceBytes,
            NaiveScratchBytes = (backwardPlan ?? plan).UnfusedScratchBytes,
            Written = [.. outputs.Select(output => output.Path).Distinct()],
        };

    private static void Write(RunReport report, List<(string Option, string Path)> outputs, CliConsole console)
    {
        string scores = report.Scores.Length > 0 ? $", {report.Scores}" : string.Empty;
        console.WriteLine($"q {Shape(report.Q)}  k {Shape(report.K)}  v {Shape(report.V)}  {report.Dtype}, mask {report.Mask}{scores}, on {report.Device}");
        WritePass("forward", report.ForwardSeconds, report.ForwardFlops, report.Kernel);
        if (report.BackwardKernel is not null)
        {
            WritePass("backward", report.BackwardSeconds!.Value, report.BackwardFlops!.Value, report.BackwardKernel);
        }
        console.WriteLine($"scratch   {Format.Bytes(report.WorkspaceBytes)} (naive: {Format.Bytes(report.NaiveScratchBytes)})");
        foreach ((string option, string path) in outputs)
        {
            console.WriteLine($"{option[2..],-8}  {path}");
        }

        static string Shape(long[] sizes) => StoredTypes.FormatShape(sizes);

        void WritePass(string name, double seconds, double flops, string kernel) =>
            console.WriteLine($"{name,-8}  {Format.Time(seconds),9}  {Format.Digits(flops / seconds / 1e9),6} GFLOP/s  {kernel}");
    }

    private static long[] Sizes(TensorShape shape) => [shape.Batch, shape.Sequence, shape.Heads, shape.HeadDim];
}
