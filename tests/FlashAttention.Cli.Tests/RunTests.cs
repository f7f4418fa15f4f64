using System.Text.Json;

namespace FlashAttention.Cli.Tests;

/// <summary>"run" from files to files against a float64 computation.</summary>
internal sealed class RunTests
{
    private TemporaryFolder _folder = null!;

    [SetUp]
    public void SetUp() => _folder = new TemporaryFolder();

    [TearDown]
    public void TearDown() => _folder.Dispose();

    /// <summary>Allowed errors: a few units of the type at the size of the results (all below 8 here), and sums in fp32.</summary>
    private static double Tolerance(string descr) => descr switch
    {
        "<f4" => 1e-5,
        "<f2" => 4e-3,
        _ => 3e-2,
    };

    [Test]
    public void ForwardAndBackwardAgreeWithFloat64([Values("<f4", "<f2", "<u2")] string descr, [Values("none", "bottom-right", "top-left")] string mask)
    {
        (int B, int Sq, int Sk, int Hq, int Hk, int D, int Dv) sizes = (2, 37, 50, 4, 2, 24, 16);
        double[] q = Save("q.npy", descr, 1, 2, 37, 4, 24), k = Save("k.npy", descr, 2, 2, 50, 2, 24), v = Save("v.npy", descr, 3, 2, 50, 2, 16);
        double[] gradO = Save("g.npy", descr, 4, 2, 37, 4, 16);
        int? offset = mask switch { "none" => null, "top-left" => 0, _ => 50 - 37 };
        string causal = mask switch { "none" => string.Empty, "top-left" => "--causal --causal-alignment top-left", _ => "--causal" };
        ExactAttention exact = ExactAttention.Compute(q, k, v, gradO, sizes, offset);

        CliResult result = RunIn("--q q.npy --k k.npy --v v.npy --grad-o g.npy --out o.npy --lse l.npy "
            + $"--grad-q dq.npy --grad-k dk.npy --grad-v dv.npy --bf16 {causal}");
        Assert.That(result.Code, Is.EqualTo(ExitCode.Ok), result.Error);
        Assert.Multiple(() =>
        {
            Check("o.npy", exact.O, Tolerance(descr), "(2, 37, 4, 16)", descr);
            Check("l.npy", exact.Lse, 1e-5, "(2, 4, 37)", "<f4");
            Check("dq.npy", exact.GradQ, Tolerance(descr), "(2, 37, 4, 24)", descr);
            Check("dk.npy", exact.GradK, Tolerance(descr), "(2, 50, 2, 24)", descr);
            Check("dv.npy", exact.GradV, Tolerance(descr), "(2, 50, 2, 16)", descr);
        });
    }

    [Test]
    public void LayoutBhsdTransposesInputsAndOutputs()
    {
        double[] q = Save("q.npy", "<f4", 1, 3, 20, 8), k = Save("k.npy", "<f4", 2, 3, 20, 8), v = Save("v.npy", "<f4", 3, 3, 20, 8);
        CliResult result = RunIn("--q q.npy --k k.npy --v v.npy --out o.npy --layout bhsd");
        Assert.That(result.Code, Is.EqualTo(ExitCode.Ok), result.Error);
        // Each head by itself is a rank 2 problem.
        double[] expected = [.. Enumerable.Range(0, 3).SelectMany(h => ExactAttention.Compute(Part(q, h), Part(k, h), Part(v, h), null, (1, 20, 20, 1, 1, 8,
            8), null).O)];
        Check("o.npy", expected, 1e-5, "(3, 20, 8)", "<f4");

        static double[] Part(double[] all, int head) => all[(head * 160)..((head + 1) * 160)];
    }

    [Test]
    public void RankTwoFortranOrderAndScale()
    {
        long[] shape = [19, 12];
        double[] q = TestTensors.Decode("<f4", TestTensors.Encode("<f4", TestTensors.Normal(1, 228)));
        File.WriteAllBytes(_folder["q.npy"], TestTensors.Npy("<f4", shape, TestTensors.ToFortran(q, shape), fortran: true, version: 2));
        CliResult result = RunIn("--q q.npy --k q.npy --v q.npy --out o.npy --lse l.npy --scale 0.7");
        Assert.That(result.Code, Is.EqualTo(ExitCode.Ok), result.Error);
        ExactAttention exact = ExactAttention.Compute(q, q, q, null, (1, 19, 19, 1, 1, 12, 12), null, 0.7f);
        Check("o.npy", exact.O, 1e-5, "(19, 12)", "<f4");
        Check("l.npy", exact.Lse, 1e-5, "(19, )", "<f4");
    }

    [Test]
    public void OneSafetensorsFileInAndOneOut()
    {
        double[] values = TestTensors.Decode("BF16", TestTensors.Encode("BF16", TestTensors.Normal(9, 3 * 40)));
        string header = """{"q":{"dtype":"BF16","shape":[5,1,8],"data_offsets":[0,80]},"key":{"dtype":"BF16","shape":[5,1,8],"data_offsets":[80,160]},"""
            + """ "v":{"dtype":"BF16","shape":[5,1,8],"data_offsets":[160,240]}}""";
        File.WriteAllBytes(_folder["x.safetensors"], TestTensors.Safetensors(header, TestTensors.Encode("BF16", values)));
        CliResult result = RunIn("--q x.safetensors --k x.safetensors --k-name key --v x.safetensors --out y.safetensors --lse y.safetensors --json");
        JsonElement json = result.Json();
        ExactAttention exact = ExactAttention.Compute(values[..40], values[40..80], values[80..], null, (1, 5, 5, 1, 1, 8, 8), null);
        byte[] file = File.ReadAllBytes(_folder["y.safetensors"]);
        int length = (int)BitConverter.ToInt64(file);
        using JsonDocument written = JsonDocument.Parse(file.AsMemory(8, length));
        Assert.Multiple(() =>
        {
            Assert.That(json.GetProperty("dtype").GetString(), Is.EqualTo("bfloat16"));
            Assert.That(json.GetProperty("q").EnumerateArray().Select(size => size.GetInt64()), Is.EqualTo(new long[] { 1, 5, 1, 8 }));
            Assert.That(json.GetProperty("written").GetArrayLength(), Is.EqualTo(1));
            Assert.That(written.RootElement.GetProperty("o").GetProperty("dtype").GetString(), Is.EqualTo("BF16"));
            Assert.That(written.RootElement.GetProperty("lse").GetProperty("data_offsets").GetRawText(), Is.EqualTo("[80,100]"));
            Assert.That(ExactAttention.MaxError(TestTensors.Decode("BF16", file.AsSpan(8 + length, 80)), exact.O), Is.LessThan(3e-2));
            Assert.That(ExactAttention.MaxError(TestTensors.Decode("F32", file.AsSpan(8 + length + 80, 20)), exact.Lse), Is.LessThan(1e-5));
        });
    }

    [Test]
    public void GradientOfLseCounts()
    {
        double[] q = Save("q.npy", "<f4", 1, 9, 2, 8), k = Save("k.npy", "<f4", 2, 9, 2, 8);
        Save("v.npy", "<f4", 3, 9, 2, 8);
        Save("g.npy", "<f4", 4, 9, 2, 8);
        double[] gradLse = Save("gl.npy", "<f4", 5, 2, 9);
        CliResult plain = RunIn("--q q.npy --k k.npy --v v.npy --grad-o g.npy --grad-q a.npy"),
            with = RunIn("--q q.npy --k k.npy --v v.npy --grad-o g.npy --grad-lse gl.npy --grad-q b.npy");
        Assert.That((plain.Code, with.Code), Is.EqualTo((ExitCode.Ok, ExitCode.Ok)), plain.Error + with.Error);
        double[] a = TestTensors.ReadNpy(_folder["a.npy"]).Values, b = TestTensors.ReadNpy(_folder["b.npy"]).Values;
        // d lse / d q = scale * sum_j p_j k_j, which is scale * (O with K in the place of V).
        ExactAttention keys = ExactAttention.Compute(q, k, k, null, (1, 9, 9, 2, 2, 8, 8), null);
        double[] expected = [.. a.Select((value, n) => value + (keys.O[n] / Math.Sqrt(8) * gradLse[(n / 8 % 2 * 9) + (n / 16)]))];
        Assert.That(ExactAttention.MaxError(b, expected), Is.LessThan(1e-5));
    }

    [Test]
    public void EmptyRowsAndEmptyTensors()
    {
        Save("q.npy", "<f4", 1, 5, 1, 4);
        Save("k.npy", "<f4", 2, 2, 1, 4);
        Save("e.npy", "<f4", 3, 0, 1, 4);
        Assert.That(RunIn("--q q.npy --k k.npy --v k.npy --causal --out o.npy --lse l.npy").Code, Is.EqualTo(ExitCode.Ok));
        double[] lse = TestTensors.ReadNpy(_folder["l.npy"]).Values;
        Assert.That(lse.Take(3), Is.All.EqualTo(double.NegativeInfinity), "queries 0 to 2 see no key");
        Assert.That(TestTensors.ReadNpy(_folder["o.npy"]).Values.Take(12), Is.All.Zero);
        Assert.That(RunIn("--q e.npy --k k.npy --v k.npy --out oe.npy").Code, Is.EqualTo(ExitCode.Ok));
        Assert.That(TestTensors.ReadNpy(_folder["oe.npy"]).Header, Does.Contain("(0, 1, 4)"));
    }

    [Test]
    public void OverwriteReplacesOnlyWhenAsked()
    {
        Save("q.npy", "<f4", 1, 5, 1, 4);
        File.WriteAllText(_folder["o.npy"], "precious");
        CliResult refused = RunIn("--q q.npy --k q.npy --v q.npy --out o.npy");
        Assert.That((refused.Code, File.ReadAllText(_folder["o.npy"])), Is.EqualTo((ExitCode.Usage, "precious")));
        Assert.That(RunIn("--q q.npy --k q.npy --v q.npy --out o.npy --overwrite").Code, Is.EqualTo(ExitCode.Ok));
        Assert.That(TestTensors.ReadNpy(_folder["o.npy"]).Values, Has.Length.EqualTo(20));
        Assert.That(_folder.Files, Is.EqualTo(new[] { "o.npy", "q.npy" }));
    }

    [Test]
    public void CancelledRunWritesNothing()
    {
        Save("q.npy", "<f4", 1, 5, 1, 4);
        using StringWriter output = new(), error = new();
        string q = _folder["q.npy"];
        ExitCode code = CommandLineApp.Run(["run", "--q", q, "--k", q, "--v", q, "--out", _folder["o.npy"]], Output.CliConsole.To(output, error),
            new CancellationToken(true));
        Assert.That((code, _folder.Files), Is.EqualTo((ExitCode.Cancelled, new[] { "q.npy" })));
    }

    /// <summary>Writes random numbers; returns them as the file holds them.</summary>
    private double[] Save(string name, string descr, int seed, params long[] shape)
    {
        double[] values = TestTensors.Decode(descr, TestTensors.Encode(descr, TestTensors.Normal(seed, shape.Aggregate(1L, (a, b) => a * b))));
        File.WriteAllBytes(_folder[name], TestTensors.Npy(descr, shape, values));
        return values;
    }

    /// <summary>Runs "run" with file names in the test's folder.</summary>
    private CliResult RunIn(string line) => CliRunner.Run(
        ["run", .. line.Split(' ', StringSplitOptions.RemoveEmptyEntries).Select(word =>
            word.EndsWith(".npy") || word.EndsWith(".safetensors") ? _folder[word] : word)]);

    private void Check(string name, double[] expected, double tolerance, string shape, string descr)
    {
        (string actualDescr, string header, double[] values) = TestTensors.ReadNpy(_folder[name]);
        Assert.That(header, Does.Contain($"'shape': {shape}"), name);
        Assert.That(actualDescr, Is.EqualTo(descr), name);
        Assert.That(ExactAttention.MaxError(values, expected), Is.LessThan(tolerance), name);
    }
}
