using System.Numerics.Tensors;
using System.Text.Json;

namespace FlashAttention.Cli.Tests;

/// <summary>Mask and score variants on the command line mean what the library's options of the same name mean: "run" against the float64 reference.</summary>
internal sealed class VariantTests
{
    private const int Batch = 2, LengthQ = 20, LengthKv = 24, Heads = 4, HeadsKv = 2, Dim = 8;
    private TemporaryFolder _folder = null!;
    private float[] _q = [], _k = [], _v = [], _gradO = [];

    [SetUp]
    public void SetUp()
    {
        _folder = new TemporaryFolder();
        _q = Save("q.npy", 1, Batch, LengthQ, Heads, Dim);
        _k = Save("k.npy", 2, Batch, LengthKv, HeadsKv, Dim);
        _v = Save("v.npy", 3, Batch, LengthKv, HeadsKv, Dim);
        _gradO = Save("g.npy", 4, Batch, LengthQ, Heads, Dim);
    }

    [TearDown]
    public void TearDown() => _folder.Dispose();

    [Test]
    public void Masks()
    {
        Mask bottomRight = Mask.Causal(Alignment.BottomRight), topLeft = Mask.Causal(Alignment.TopLeft);
        Check("--causal --window 5", new AttentionOptions { Mask = bottomRight & Mask.Window(5) });
        Check("--causal --window 5,3", new AttentionOptions { Mask = bottomRight & Mask.Window(5) });
        Check("--window 3,2 --alignment top-left", new AttentionOptions { Mask = Mask.Window(3, 2, Alignment.TopLeft) });
        Check("--window all,2", new AttentionOptions { Mask = Mask.Window(null, 2, Alignment.BottomRight) });
        Check("--causal-alignment top-left --chunk 7", new AttentionOptions { Mask = topLeft & Mask.Chunk(7) });
        Check("--window 9 --chunk 6", new AttentionOptions { Mask = Mask.Window(9, null, Alignment.BottomRight) & Mask.Chunk(6) });
    }

    [Test]
    public void Scores()
    {
        float[] slopes = Save("a.npy", 5, Batch, Heads);
        Check("--softcap 1.5", new AttentionOptions { Softcap = 1.5f });
        Check("--dropout 0.3 --dropout-seed 7", new AttentionOptions { Dropout = new Dropout(0.3f, 7) });
        Check("--alibi standard --causal", new AttentionOptions { Mask = Mask.Causal(Alignment.BottomRight), Alibi = new Alibi(Alibi.StandardSlopes(Heads)) });
        Check("--alibi a.npy", new AttentionOptions { Alibi = new Alibi(slopes) { PerBatch = true } });
    }

    [Test]
    public void BiasAndSinksWithGradients()
    {
        float[] bias = Save("b.npy", 6, Heads, LengthQ, LengthKv), sinks = Save("s.npy", 7, Heads);
        AttentionOptions options = new()
        {
            Bias = new Bias(AttentionTensor.From(bias.AsMemory(), new TensorShape(1, Heads, LengthQ, LengthKv))),
            Sinks = new Sinks(sinks),
        };
        ReferenceGradients exact = Check("--bias b.npy --sinks s.npy --grad-bias db.npy --grad-sinks ds.npy", options);
        CheckFile("db.npy", exact.Bias, "(1, 4, 20, 24)");
        CheckFile("ds.npy", exact.Sinks, "(4, )");
    }

    [Test]
    public void BiasPerKeyOfAnotherType()
    {
        double[] values = TestTensors.Normal(8, LengthKv);
        File.WriteAllBytes(_folder["b.npy"], TestTensors.Npy("<f8", [LengthKv], values));
        float[] rounded = [.. values.Select(value => (float)value)];
        AttentionTensor tensor = AttentionTensor.From(rounded.AsMemory(), new TensorShape(1, 1, 1, LengthKv));
        Check("--bias b.npy", new AttentionOptions { Bias = new Bias(tensor) });
    }

    [Test]
    public void BooleanMasks()
    {
        bool[] keys = [.. Enumerable.Range(0, Batch * LengthKv).Select(i => i % 3 != 0)], blocks = [true, false, false, true];
        SaveBools("m.npy", "|b1", keys, Batch, 1, 1, LengthKv);
        SaveBools("n.npy", "|u1", blocks, 2, 2);
        Check("--visible m.npy", new AttentionOptions { Visible = VisibleMask.Keys(keys, Batch) });
        AttentionTensor table = AttentionTensor.From(blocks.AsMemory(), new TensorShape(1, 1, 2, 2));
        Check("--block-mask n.npy --block-size 16,16", new AttentionOptions { BlockMask = new BlockMask(table, 16, 16) });
        string header = """{"visible":{"dtype":"BOOL","shape":[24],"data_offsets":[0,24]}}""";
        File.WriteAllBytes(_folder["m.safetensors"], TestTensors.Safetensors(header, [.. keys[..LengthKv].Select(Convert.ToByte)]));
        AttentionTensor row = AttentionTensor.From(keys.AsMemory(0, LengthKv), new TensorShape(1, 1, 1, LengthKv));
        Check("--visible m.safetensors", new AttentionOptions { Visible = new VisibleMask(row) });
    }

    [Test]
    public void SequencesOfDifferentLengths()
    {
        int[] used = [20, 5];
        Check("--used-kv 20,5", new AttentionOptions { Sequences = Sequences.Padded(null, used) });
        Check("--used-kv 20,5 --left-padded --causal",
            new AttentionOptions { Mask = Mask.Causal(Alignment.BottomRight), Sequences = Sequences.Padded(null, used) with { LeftPadded = true } });
    }

    [Test]
    public void PackedSequences([Values("", "--alibi standard --causal")] string more)
    {
        float[] x = Save("x.npy", 9, 17, 2, 8);
        CliResult result = RunIn($"--q x.npy --k x.npy --v x.npy --seq-lens 5,0,9 --out o.npy --lse l.npy --json {more}");
        Assert.That(result.Json().GetProperty("scores").GetString(), Does.EndWith("3 packed sequences"));
        int[] offsets = [0, 5, 5, 14];
        AttentionOptions options = new() { Sequences = Sequences.Packed(offsets, offsets, 9, 9) };
        options = more.Length == 0 ? options
            : options with { Mask = Mask.Causal(Alignment.BottomRight), Alibi = new Alibi(Alibi.StandardSlopes(2)) };
        ReadOnlyTensorSpan<float> span = new(x, [1, 17, 2, 8]);
        ReferenceOutput exact = ReferenceAttention.Forward(span, span, span, options);
        CheckFile("o.npy", exact.O, "(17, 2, 8)");
        CheckFile("l.npy", exact.Lse, "(2, 17)");
    }

    [Test]
    public void VerifyHasTheVariantsItIsAskedFor()
    {
        JsonElement[] cases = [.. CliRunner.RunLine("verify --quick --seed 3 --with sinks,sequences --json").Json().GetProperty("cases").EnumerateArray()];
        Assert.That(cases, Has.Length.EqualTo(12));
        foreach (JsonElement each in cases)
        {
            Assert.That(each.GetProperty("problem").GetString(), Does.Match("sinks, \\d (packed|padded) sequences$"));
            Assert.That(each.GetProperty("tensors").EnumerateArray().Select(tensor => tensor.GetProperty("name").GetString()), Does.Contain("dSinks"));
        }
        Assert.That(CliRunner.RunLine("verify --quick --seed 3 --with none").Out, Does.Not.Contain("sinks").And.Not.Contain("window"));
    }

    [Test]
    public void ExplainCountsVisiblePairs()
    {
        // 100 queries that see at most 8 keys: 1 + 2 + … + 7 + 93 * 8 pairs.
        string line = "explain --heads 1 --len-q 100 --dim 16 --mask causal --window 7 --softcap 20 --with alibi,bias --pass forward --json";
        JsonElement json = CliRunner.RunLine(line).Json();
        Assert.Multiple(() =>
        {
            Assert.That(json.GetProperty("problem").GetString(), Does.EndWith("window 7 left, 0 right, bottom-right, softcap 20, ALiBi, bias"));
            Assert.That(json.GetProperty("passes")[0].GetProperty("plan").GetProperty("exponentials").GetDouble(), Is.EqualTo(28 + (93 * 8)));
        });
        Assert.That(CliRunner.RunLine("explain --seq-lens 100,28 --heads 2 --dim 16").Out, Does.Contain("len_q 128").And.Contain("2 packed sequences"));
    }

    [Test]
    public void BenchTimesVariants()
    {
        JsonElement[] cells =
        [
            .. Cells("--len 70 --mask causal --window 15 --dropout 0.1 --with alibi,bias,sinks,visible,block-mask"),
            .. Cells("--seq-lens 30,0,70 --mask none"),
        ];
        string all = "ALiBi, bias, visible, blocks of 128x128, sinks, dropout 0.1";
        Assert.That(cells.Select(cell => cell.GetProperty("scores").GetString()), Is.EqualTo(new[] { all, all, "3 packed sequences", "3 packed sequences" }));
        foreach (JsonElement cell in cells)
        {
            Assert.That(cell.GetProperty("median_seconds").GetDouble(), Is.GreaterThan(0));
            Assert.That(cell.GetProperty("max_error_of_bound").GetDouble(), Is.LessThanOrEqualTo(1));
        }
        Assert.That(cells[^1].GetProperty("length").GetInt32(), Is.EqualTo(100));

        static IEnumerable<JsonElement> Cells(string arguments) =>
            CliRunner.RunLine($"bench --dim 16 --heads 2 --seconds 0.01 --json {arguments}").Json().GetProperty("cells").EnumerateArray();
    }

    /// <summary>Runs both passes and compares every output with the reference.</summary>
    private ReferenceGradients Check(string arguments, AttentionOptions options)
    {
        CliResult result = RunIn("--q q.npy --k k.npy --v v.npy --grad-o g.npy --out o.npy --lse l.npy --grad-q dq.npy --grad-k dk.npy --grad-v dv.npy "
            + $"--overwrite {arguments}");
        Assert.That(result.Code, Is.EqualTo(ExitCode.Ok), $"{arguments}: {result.Error}");
        ReadOnlyTensorSpan<float> q = new(_q, [Batch, LengthQ, Heads, Dim]), k = new(_k, [Batch, LengthKv, HeadsKv, Dim]);
        ReadOnlyTensorSpan<float> v = new(_v, [Batch, LengthKv, HeadsKv, Dim]), gradO = new(_gradO, [Batch, LengthQ, Heads, Dim]);
        ReferenceOutput exact = ReferenceAttention.Forward(q, k, v, options);
        ReferenceGradients gradients = ReferenceAttention.Backward(q, k, v, gradO, options);
        Assert.Multiple(() =>
        {
            CheckFile("o.npy", exact.O, "(2, 20, 4, 8)", arguments);
            CheckFile("l.npy", exact.Lse, "(2, 4, 20)", arguments);
            CheckFile("dq.npy", gradients.Q, "(2, 20, 4, 8)", arguments);
            CheckFile("dk.npy", gradients.K, "(2, 24, 2, 8)", arguments);
            CheckFile("dv.npy", gradients.V, "(2, 24, 2, 8)", arguments);
        });
        return gradients;
    }

    private void CheckFile(string name, double[] expected, string shape, string what = "")
    {
        (string descr, string header, double[] values) = TestTensors.ReadNpy(_folder[name]);
        Assert.That((descr, header.Contains($"'shape': {shape}")), Is.EqualTo(("<f4", true)), $"{what} {name}: {header}");
        Assert.That(ExactAttention.MaxError(values, expected), Is.LessThan(2e-5), $"{what} {name}");
    }

    private float[] Save(string name, int seed, params long[] shape)
    {
        float[] values = [.. TestTensors.Normal(seed, shape.Aggregate(1L, (a, b) => a * b)).Select(value => (float)value)];
        File.WriteAllBytes(_folder[name], TestTensors.Npy("<f4", shape, [.. values.Select(value => (double)value)]));
        return values;
    }

    private void SaveBools(string name, string descr, bool[] values, params long[] shape) =>
        File.WriteAllBytes(_folder[name], TestTensors.Npy(TestTensors.Dict(descr, shape), [.. values.Select(Convert.ToByte)]));

    private CliResult RunIn(string line) => CliRunner.Run(["run", .. line.Split(' ', StringSplitOptions.RemoveEmptyEntries).Select(word =>
        word.EndsWith(".npy") || word.EndsWith(".safetensors") ? _folder[word] : word)]);
}
