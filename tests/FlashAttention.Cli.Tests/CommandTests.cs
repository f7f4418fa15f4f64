using System.Text.Json;
using System.Xml.Linq;

namespace FlashAttention.Cli.Tests;

/// <summary>Every command's help, text and JSON.</summary>
internal sealed class CommandTests
{
    [TestCase("run", "--grad-o")]
    [TestCase("demo", "--text")]
    [TestCase("verify", "--count")]
    [TestCase("explain", "--assume-cc")]
    [TestCase("bench", "--svg")]
    [TestCase("info", "--json")]
    [TestCase("doctor", "--json")]
    public void HelpNamesOptionsAndExamples(string command, string option)
    {
        foreach (string line in new[] { $"{command} --help", $"{command} -h", $"help {command}", $"{command} astray --no-such --help" })
        {
            CliResult result = CliRunner.RunLine(line);
            Assert.Multiple(() =>
            {
                Assert.That(result.Code, Is.EqualTo(ExitCode.Ok));
                Assert.That(result.Out, Does.Contain(option).And.Contain($"Usage: flashattn {command}").And.Contain("Exit codes"));
                Assert.That(result.Error, Is.Empty);
            });
        }
    }

    [Test]
    public void HelpNamesEveryCommand()
    {
        CliResult result = CliRunner.Run("--help");
        Assert.That((result.Code, CliRunner.Run("-h").Out), Is.EqualTo((ExitCode.Ok, result.Out)));
        foreach (string command in new[] { "run", "demo", "verify", "explain", "bench", "info", "doctor" })
        {
            Assert.That(result.Out, Does.Contain($"  {command} "));
        }
    }

    [Test]
    public void VersionIsThatOfTheLibrary()
    {
        CliResult result = CliRunner.Run("--version");
        Assert.That((result.Code, result.Out.Trim()), Is.EqualTo((ExitCode.Ok, $"flashattn {FlashAttentionNative.Version}")));
    }

    /// <summary>The examples of the help are command lines that parse: none is a usage error of an option.</summary>
    [Test]
    public void ExamplesParse()
    {
        string[] examples =
        [
            .. Options.RunOptions.Examples, .. Options.DemoOptions.Examples, .. Options.VerifyOptions.Examples, .. Options.ExplainOptions.Examples,
            .. Options.BenchOptions.Examples, .. Options.InfoOptions.Examples, .. Options.DoctorOptions.Examples,
        ];
        foreach (string example in examples)
        {
            string line = example[example.IndexOf("flashattn ", StringComparison.Ordinal)..]["flashattn ".Length..];
            // A bad value that is found after parsing stops the command before it does anything.
            CliResult result = CliRunner.RunLine($"{line} --no-such-option");
            string[] problems = [.. result.Error.Split('\n').Where(text => text.StartsWith("flashattn: ", StringComparison.Ordinal))];
            Assert.That(problems, Is.EqualTo(new[] { "flashattn: there is no option '--no-such-option'" }), example);
        }
    }

    [Test]
    public void InfoNamesTheCpu()
    {
        JsonElement json = CliRunner.Run("info", "--json").Json();
        Assert.Multiple(() =>
        {
            Assert.That(json.GetProperty("library_version").GetString(), Is.EqualTo(FlashAttentionNative.Version));
            Assert.That(json.GetProperty("devices")[0].GetProperty("device").GetString(), Is.EqualTo("cpu"));
            Assert.That(json.GetProperty("kernels")[0].GetProperty("forward").GetString(), Is.Not.Empty);
            Assert.That(File.Exists(json.GetProperty("library_path").GetString()), "the loaded library is a file");
        });
        Assert.That(CliRunner.Run("info").Out, Does.Contain("cpu").And.Contain("backward"));
    }

    [Test]
    public void DoctorShowsTheLoadingAndPasses()
    {
        JsonElement json = CliRunner.Run("doctor", "--json").Json();
        JsonElement[] loading = [.. json.GetProperty("loading").EnumerateArray()];
        Assert.Multiple(() =>
        {
            Assert.That(json.GetProperty("healthy").GetBoolean());
            Assert.That(loading[^1].GetProperty("outcome").GetString(), Is.EqualTo("Loaded"));
            Assert.That(json.GetProperty("checks")[0].GetProperty("passed").GetBoolean());
        });
        Assert.That(CliRunner.Run("doctor").Out, Does.Contain("All is well"));
    }

    [Test]
    public void VerifyPassesAndRepeats()
    {
        JsonElement first = CliRunner.RunLine("verify --quick --seed 3 --json").Json(), second = CliRunner.RunLine("verify --quick --seed 3 --json").Json();
        Assert.Multiple(() =>
        {
            Assert.That(first.GetProperty("failed").GetInt32(), Is.Zero);
            Assert.That(first.GetProperty("passed").GetInt32(), Is.EqualTo(12));
            Assert.That(first.GetRawText(), Is.EqualTo(second.GetRawText()), "the same seed gives the same problems and errors");
        });
        Assert.That(CliRunner.Run("verify", "--count", "2", "--seed", "4").Out, Does.Contain("seed 4").And.Contain("2 passed, 0 failed"));
    }

    [Test]
    public void DemoComparesFusedAndNaive([Values("float32", "float16")] string type)
    {
        JsonElement json = CliRunner.Run("demo", "--len", "200,300", "--dtype", type, "--json").Json();
        JsonElement row = json.GetProperty("lengths")[1], heads = json.GetProperty("query").GetProperty("heads");
        Assert.Multiple(() =>
        {
            Assert.That(row.GetProperty("length").GetInt32(), Is.EqualTo(300));
            Assert.That(row.GetProperty("naive_scratch_bytes").GetInt64(), Is.EqualTo(4L * 300 * 300 * 4));
            Assert.That(row.GetProperty("naive_max_error").GetDouble(), Is.LessThan(1e-5));
            Assert.That(row.GetProperty("fused_max_error").GetDouble(), Is.LessThan(row.GetProperty("error_bound").GetDouble()));
            Assert.That(heads.GetArrayLength(), Is.EqualTo(4));
        });
        // Head 0 is built to attend to the same character: it must.
        string asked = Bracketed(json.GetProperty("query"));
        foreach (JsonElement key in heads[0].GetProperty("most_attended").EnumerateArray())
        {
            Assert.That(Bracketed(key), Is.EqualTo(asked));
        }
    }

    [Test]
    public void DemoReadsAnyBytes()
    {
        using TemporaryFolder folder = new();
        File.WriteAllBytes(folder["x.bin"], [0, 255, 10, 13, 200, (byte)'[', (byte)'m']);
        CliResult result = CliRunner.Run("demo", "--text", folder["x.bin"], "--len", "1,40", "--heads", "5", "--query", "0");
        Assert.That(result.Code, Is.EqualTo(ExitCode.Ok), result.Error);
        Assert.That(result.Out, Does.Contain("x.bin").And.Contain("100.0"));
    }

    [Test]
    public void BenchTimesAndDraws()
    {
        using TemporaryFolder folder = new();
        CliResult result = CliRunner.Run("bench", "--len", "64,128", "--dim", "32", "--heads", "2", "--kv-heads", "1", "--seconds", "0.01",
            "--mask", "none,causal", "--dtype", "float16,float32", "--json", "--svg", folder["b.svg"]);
        JsonElement[] cells = [.. result.Json().GetProperty("cells").EnumerateArray()];
        Assert.That(cells, Has.Length.EqualTo(16));
        foreach (JsonElement cell in cells)
        {
            Assert.That(cell.GetProperty("median_seconds").GetDouble(), Is.GreaterThan(0));
            Assert.That(cell.GetProperty("max_error_of_bound").GetDouble(), Is.LessThanOrEqualTo(1));
            Assert.That(cell.GetProperty("runs").GetInt32(), Is.GreaterThanOrEqualTo(3));
        }
        XDocument svg = XDocument.Load(folder["b.svg"]);
        Assert.That(svg.Root!.Elements().Count(element => element.Name.LocalName == "polyline"), Is.EqualTo(8), "one line per pass, type and mask");
    }

    [Test]
    public void BenchSaysWhatItDidNotTime()
    {
        CliResult unsupported = CliRunner.RunLine("bench --len 32 --dim 600 --pass forward --seconds 0.01");
        Assert.That(unsupported.Code, Is.EqualTo(ExitCode.Failed));
        Assert.That(unsupported.Out, Does.Contain("600").And.Not.Contain("fa_"));
        CliResult large = CliRunner.RunLine("bench --len 16777216 --dim 256 --heads 64 --mask none --pass forward");
        Assert.That(large.Code, Is.EqualTo(ExitCode.Failed), large.Error);
        Assert.That(large.Out, Does.Contain("not timed: the tensors need"));
    }

    /// <summary>A file that cannot be written is an error in words, not an unexpected exception.</summary>
    [Test]
    [Platform("Linux")]
    public void FullDiskIsSaid()
    {
        CliResult result = CliRunner.RunLine("bench --len 32 --dim 32 --mask none --pass forward --seconds 0.01 --svg /dev/full --overwrite");
        Assert.That(result.Code, Is.EqualTo(ExitCode.Failed));
        Assert.That(result.Error, Does.StartWith("flashattn: ").And.Contain("/dev/full").And.Not.Contain("unexpected"));
    }

    private static string Bracketed(JsonElement element)
    {
        string context = element.GetProperty("context").GetString()!;
        return context[context.LastIndexOf('[')..(context.LastIndexOf(']') + 1)];
    }
}
