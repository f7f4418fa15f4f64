namespace FlashAttention.Cli.Tests;

/// <summary>Wrong command lines and inputs: each has its own message and exit code, and nothing is written.</summary>
internal sealed class BadCommandLineTests
{
    private TemporaryFolder _folder = null!;

    [OneTimeSetUp]
    public void MakeFiles()
    {
        _folder = new TemporaryFolder();
        Npy("q.npy", "<f4", 1, 6, 4, 8);
        Npy("k.npy", "<f4", 1, 6, 2, 8);
        Npy("half.npy", "<f2", 1, 6, 2, 8);
        Npy("double.npy", "<f8", 1, 6, 2, 8);
        Npy("k3.npy", "<f4", 1, 6, 3, 8);
        Npy("d9.npy", "<f4", 1, 6, 2, 9);
        Npy("b2.npy", "<f4", 2, 6, 2, 8);
        Npy("s7.npy", "<f4", 1, 7, 2, 8);
        Npy("r3.npy", "<f4", 6, 2, 8);
        Npy("d0.npy", "<f4", 1, 6, 2, 0);
        Npy("big.npy", "<f4", 1, 6, 2, 513);
        Npy("lse.npy", "<f4", 1, 4, 5);
        Npy("bias.npy", "<f4", 6, 6);
        File.WriteAllBytes(_folder["mask.npy"], TestTensors.Npy(TestTensors.Dict("|b1", [6, 6]), new byte[36]));
        File.WriteAllText(_folder["text.txt"], "a");
        File.WriteAllBytes(_folder["empty.txt"], []);
        File.WriteAllBytes(_folder["cut.npy"], TestTensors.Npy("<f4", [1, 6, 2, 8], new double[96])[..200]);
        Directory.CreateDirectory(_folder["folder.npy"]);
    }

    [OneTimeTearDown]
    public void RemoveFiles() => _folder.Dispose();

    // @ stands for the folder of the files above, $ for a command line that is right.
    [TestCase("", 2, "run", TestName = "BadLine: nothing")]
    [TestCase("attend", 2, "no command 'attend'")]
    [TestCase("run", 2, "option --q is needed")]
    [TestCase("run --q @q.npy --k @k.npy", 2, "option --v is needed")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy", 2, "nothing to write")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --out", 2, "option --out needs a value")]
    [TestCase("run --q @q.npy --q @q.npy --k @k.npy --v @k.npy --out @o.npy", 2, "option --q is given twice")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --out @o.npy --casual", 2, "no option '--casual'")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --out @o.npy --scale abc", 2, "--scale: expected a number, got 'abc'")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --out @o.npy stray", 2, "unexpected argument 'stray'")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --out @o.npy --causal=no", 2, "option --causal takes no value, got 'no'")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --out @o.npy --causal no", 2, "unexpected argument 'no'")]
    [TestCase("run -q @q.npy -k @k.npy -v", 2, "option --v needs a value")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --out @o.npy --scale 0", 2, "--scale: expected a finite number > 0")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --out @o.npy --scale=-1", 2, "--scale: expected a finite number > 0")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --out @o.npy --scale NaN", 2, "--scale: expected a finite number > 0")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --out @o.npy --threads 0", 2, "--threads: expected 1 to 1024, got 0")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --out @o.npy --layout sbhd", 2, "--layout: expected bshd or bhsd; got 'sbhd'")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --out @o.npy --dtype int8", 2, "--dtype: expected one of")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --out @o.npy --causal-alignment middle", 2, "--causal-alignment: expected one of")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --out @o.npy --kernel sm70", 2, "--kernel: expected one of")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --out @o.npy --kernel sm90", 2, "sm90")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --out @o.npy --device tpu", 2, "--device: expected one of")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --out @o.npy --device cpu:1", 2, "--device: expected one of")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --out @o.npy --device cuda:-1", 2, "--device: expected one of")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --out @o.npy --device cuda:99", 3, "device cuda:99")]
    [TestCase("run --q @missing.npy --k @k.npy --v @k.npy --out @o.npy", 2, "missing.npy: no such file")]
    [TestCase("run --q @nofolder/q.npy --k @k.npy --v @k.npy --out @o.npy", 2, "q.npy: no such file")]
    [TestCase("run --q @folder.npy --k @k.npy --v @k.npy --out @o.npy", 2, "folder.npy")]
    [TestCase("run --q @text.txt --k @k.npy --v @k.npy --out @o.npy", 2, "must end in .npy or .safetensors")]
    [TestCase("run --q @cut.npy --k @k.npy --v @k.npy --out @o.npy", 2, "cut.npy")]
    [TestCase("run --q @q.npy --k @half.npy --v @k.npy --out @o.npy", 2, "--k: the elements are float16, those of --q float32")]
    [TestCase("run --q @q.npy --k @k.npy --v @double.npy --out @o.npy", 2, "float64, which no kernel computes")]
    [TestCase("run --q @q.npy --k @k3.npy --v @k3.npy --out @o.npy", 2, "4 heads, --k 3; expected a multiple")]
    [TestCase("run --q @q.npy --k @d9.npy --v @k.npy --out @o.npy", 2, "--k: (batch, seq, heads, dim) is (1, 6, 2, 9)")]
    [TestCase("run --q @q.npy --k @b2.npy --v @b2.npy --out @o.npy", 2, "--k: (batch, seq, heads, dim) is (2, 6, 2, 8)")]
    [TestCase("run --q @q.npy --k @k.npy --v @s7.npy --out @o.npy", 2, "--v: (batch, seq, heads, dim) is (1, 7, 2, 8)")]
    [TestCase("run --q @q.npy --k @r3.npy --v @r3.npy --out @o.npy", 2, "ranks 4, 3 and 3")]
    [TestCase("run --q @d0.npy --k @d0.npy --v @d0.npy --out @o.npy", 2, "must not be 0")]
    [TestCase("run --q @big.npy --k @big.npy --v @big.npy --out @o.npy", 2, "513")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --out @q.npy --overwrite", 2, "also an input")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --out @half.npy", 2, "add --overwrite")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --out @o.npy --lse @o.npy", 2, "--out writes the same file")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --out @nofolder/o.npy", 2, "does not exist")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --out @folder.npy --overwrite", 2, "this is a folder")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --out @o.bin", 2, "must end in .npy or .safetensors")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --grad-q @o.npy", 2, "need --grad-o")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --out @o.npy --grad-o @q.npy", 2, "none of --grad-q, --grad-k, --grad-v")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --grad-q @o.npy --grad-o @k.npy", 2, "--grad-o: (batch, seq, heads, dim) is (1, 6, 2, 8)")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --out @o.npy --grad-lse @lse.npy", 2, "--grad-lse is given without --grad-o")]
    [TestCase("run --q @q.npy --k @k.npy --v @k.npy --grad-q @o.npy --grad-o @q.npy --grad-lse @lse.npy", 2, "--grad-lse: shape (1, 4, 5); expected (1, 4, 6)")]
    [TestCase("$ --window -1", 2, "--window: expected whole numbers of at least 0 or 'all', with a comma between; got '-1'")]
    [TestCase("$ --window 1,2,3", 2, "--window: expected LEFT or LEFT,RIGHT; got '1,2,3'")]
    [TestCase("$ --alignment top-left", 2, "--alignment is given without --window and --chunk")]
    [TestCase("$ --causal --window 3 --alignment top-left", 2, "--alignment: expected that of the mask, which is causal-bottom-right; got 'top-left'")]
    [TestCase("$ --window 3 --alignment middle", 2, "--alignment: expected one of bottom-right, top-left; got 'middle'")]
    [TestCase("$ --chunk 0", 2, "--chunk: expected 1 to")]
    [TestCase("$ --softcap 0", 2, "--softcap: expected a finite number > 0, got 0")]
    [TestCase("$ --dropout 1", 2, "--dropout: expected at least 0 and less than 1, got 1")]
    [TestCase("$ --dropout-seed 1", 2, "--dropout-seed is given without --dropout")]
    [TestCase("$ --alibi @k.npy", 2, "--alibi: shape (1, 6, 2, 8); expected (4) or (1, 4)")]
    [TestCase("$ --sinks @lse.npy", 2, "--sinks: shape (1, 4, 5); expected (4)")]
    [TestCase("$ --bias @lse.npy", 2, "--bias: shape (1, 4, 5); expected (batch 1 or 1, heads 4 or 1, queries 6 or 1, keys 6)")]
    [TestCase("$ --visible @bias.npy", 2, "--visible: the elements are float32; expected bool or uint8")]
    [TestCase("$ --bias @mask.npy", 2, "type '|b1' is not one of '<f2', '<f4', '<f8'")]
    [TestCase("$ --block-mask @mask.npy", 2, "--block-mask: shape (6, 6); expected (batch 1 or 1, heads 4 or 1, queries 1, keys 1)")]
    [TestCase("$ --block-size 16,16", 2, "--block-size needs --block-mask")]
    [TestCase("$ --block-mask @mask.npy --block-size 16,20", 2, "--block-size: expected two positive multiples of 16 with a comma between, got '16,20'")]
    [TestCase("$ --grad-bias @gb.npy --grad-o @q.npy", 2, "--grad-bias needs --bias")]
    [TestCase("$ --bias @bias.npy --grad-bias @gb.npy", 2, "gradients (--grad-bias) need --grad-o")]
    [TestCase("$ --grad-sinks @gs.npy --grad-o @q.npy", 2, "--grad-sinks needs --sinks")]
    [TestCase("$ --bias @missing.npy", 2, "missing.npy: no such file")]
    [TestCase("$ --seq-lens 3,4", 2, "--seq-lens: expected lengths of 6 in all or less, the positions of --q; got 7")]
    [TestCase("$ --seq-lens 3,-1", 2, "--seq-lens: expected 0 to 2147483647, got -1")]
    [TestCase("$ --seq-lens 3,3 --seq-lens-kv 6", 2, "--seq-lens-kv: expected 2 lengths like --seq-lens, got 1")]
    [TestCase("$ --seq-lens-kv 6", 2, "--seq-lens-kv is given without --seq-lens")]
    [TestCase("run --q @b2.npy --k @b2.npy --v @b2.npy --out @o.npy --seq-lens 6", 2, "--seq-lens: expected a batch of 1, --q has 2")]
    [TestCase("$ --used-kv 7", 2, "--used-kv: expected 0 to 6, got 7")]
    [TestCase("$ --used-q 3,3", 2, "--used-q: expected 1 numbers, one for each sequence; got 2")]
    [TestCase("$ --left-padded", 2, "--left-padded needs --used-q or --used-kv")]
    [TestCase("verify --with windows", 2, "--with: expected one of none, window, chunk")]
    [TestCase("verify --with none,bias", 2, "--with: expected 'none' alone")]
    [TestCase("explain --with window", 2, "--with: expected one of alibi, bias, visible, block-mask, sinks; got 'window'")]
    [TestCase("explain --seq-lens 5 --len-q 5", 2, "--seq-lens: expected no --len-q, --len-kv and --batch beside it")]
    [TestCase("bench --seq-lens 5 --len 64", 2, "--seq-lens: expected no --len and --batch beside it")]
    [TestCase("bench --softcap -2", 2, "--softcap: expected a finite number > 0, got -2")]
    [TestCase("demo --text @missing.txt", 2, "missing.txt: no such file")]
    [TestCase("demo --text @empty.txt", 2, "0 bytes")]
    [TestCase("demo --len 0", 2, "--len: expected 1 to 131072, got 0")]
    [TestCase("demo --len 64 --query 64", 2, "--query: expected 0 to 63, got 64")]
    [TestCase("demo --heads 0", 2, "--heads: expected 1 to 64")]
    [TestCase("verify --count 0", 2, "--count: expected 1 to")]
    [TestCase("verify --count many", 2, "--count: expected a whole number, got 'many'")]
    [TestCase("explain --heads 0", 2, "--heads: expected 1 to")]
    [TestCase("explain --heads 4 --kv-heads 3", 2, "--heads: expected a multiple of --kv-heads (3), got 4")]
    [TestCase("explain --heads 4 --kv-heads 0", 2, "--kv-heads: expected 1 to")]
    [TestCase("explain --len-q 999999999999 --heads 1000000", 2, "less than 2^63")]
    [TestCase("explain --len-q 99999999999999999999", 2, "--len-q: expected a whole number from -9223372036854775808 to 9223372036854775807")]
    [TestCase("explain --assume-cc 8.0", 2, "--assume-cc: expected a whole number, got '8.0'")]
    [TestCase("explain --mask sliding", 2, "--mask: expected one of none, causal")]
    [TestCase("explain --pass sideways", 2, "--pass: expected one of")]
    [TestCase("explain --assume-sms 132", 2, "--assume-sms needs --assume-cc")]
    [TestCase("explain --assume-cc 90 --device cpu", 2, "contradicts another option")]
    [TestCase("explain --assume-cc 5", 2, "--assume-cc: expected 10 to 999")]
    [TestCase("explain --device cuda:99", 3, "device cuda:99")]
    [TestCase("bench --len 0", 2, "--len: expected 1 to")]
    [TestCase("bench --len 64 128", 2, "unexpected argument '128'")]
    [TestCase("bench --len 64,", 2, "--len: expected a whole number (or several with commas between), got ''")]
    [TestCase("bench --heads 8 --kv-heads 3", 2, "--heads: expected a multiple of --kv-heads (3), got 8")]
    [TestCase("bench --dtype float64", 2, "--dtype: expected one of")]
    [TestCase("bench --seconds 0", 2, "--seconds")]
    [TestCase("bench --svg @nofolder/x.svg", 2, "--svg")]
    [TestCase("bench --svg @text.txt", 2, "add --overwrite")]
    [TestCase("info --verbose", 2, "no option '--verbose'")]
    public void BadLine(string line, int exitCode, string message)
    {
        string[] before = _folder.Files;
        byte[] half = File.ReadAllBytes(_folder["half.npy"]);
        line = line.Replace("$", "run --q @q.npy --k @k.npy --v @k.npy --out @o.npy");
        CliResult result = CliRunner.RunLine(line.Replace("@", _folder.Path + Path.DirectorySeparatorChar));
        Assert.Multiple(() =>
        {
            Assert.That((int)result.Code, Is.EqualTo(exitCode), result.Error);
            Assert.That(result.Error, Does.Contain(message));
            Assert.That(result.Error, Does.Not.Contain("   at "), "no stack trace");
            Assert.That(result.Error, Does.Not.Contain("Exception"));
            Assert.That(result.Error, Does.Not.Contain("fa_"), "no name of a C function");
            Assert.That(result.Out, Is.Empty);
            Assert.That(_folder.Files, Is.EqualTo(before), "nothing may be written");
            Assert.That(File.ReadAllBytes(_folder["half.npy"]), Is.EqualTo(half));
        });
    }

    private void Npy(string name, string descr, params long[] shape) =>
        File.WriteAllBytes(_folder[name], TestTensors.Npy(descr, shape, TestTensors.Normal(1, shape.Aggregate(1L, (a, b) => a * b))));
}
