using FlashAttention.Cli.Files;
using FlashAttention.Cli.Tensors;

namespace FlashAttention.Cli.Tests;

/// <summary>.npy and .safetensors: what is read, what is written, and what is refused.</summary>
internal sealed unsafe class TensorFileTests
{
    private TemporaryFolder _folder = null!;

    [SetUp]
    public void SetUp() => _folder = new TemporaryFolder();

    [TearDown]
    public void TearDown() => _folder.Dispose();

    [Test]
    public void NpyIsReadInEveryTypeVersionAndOrder(
        [Values("<f2", "<f4", "<u2", "<V2", "|V2")] string descr, [Values(1, 2, 3)] int version, [Values] bool fortran)
    {
        long[] shape = [2, 3, 2, 5];
        double[] values = TestTensors.Decode(descr, TestTensors.Encode(descr, TestTensors.Normal(1, 60)));
        File.WriteAllBytes(_folder["x.npy"], TestTensors.Npy(descr, shape, fortran ? TestTensors.ToFortran(values, shape) : values, fortran, version));
        using HostTensor tensor = Load("x.npy", bf16: true);
        Assert.Multiple(() =>
        {
            Assert.That(tensor.Shape, Is.EqualTo(new TensorShape(2, 3, 2, 5)));
            Assert.That(tensor.ToFloats().Select(value => (double)value), Is.EqualTo(values));
        });
    }

    [Test]
    public void Float64IsRoundedOnlyWhenAsked()
    {
        double[] values = TestTensors.Normal(2, 12);
        File.WriteAllBytes(_folder["x.npy"], TestTensors.Npy("<f8", [3, 4], values));
        Assert.That(() => Load("x.npy"), Throws.TypeOf<CliException>().With.Message.Contains("float64").And.Message.Contains("--dtype"));
        using HostTensor tensor = Load("x.npy", DType.BFloat16);
        Assert.That(tensor.ToFloats(), Is.EqualTo(values.Select(value => (float)(BFloat16)value)));
    }

    [Test]
    public void LayoutAndRankGiveTheLogicalShape()
    {
        File.WriteAllBytes(_folder["4.npy"], TestTensors.Npy("<f4", [2, 3, 4, 5], TestTensors.Normal(3, 120)));
        File.WriteAllBytes(_folder["3.npy"], TestTensors.Npy("<f4", [3, 4, 5], TestTensors.Normal(3, 60)));
        File.WriteAllBytes(_folder["2.npy"], TestTensors.Npy("<f4", [4, 5], TestTensors.Normal(3, 20)));
        Assert.Multiple(() =>
        {
            Assert.That(Shape("4.npy", TensorLayout.BatchSequenceHeads), Is.EqualTo(new TensorShape(2, 3, 4, 5)));
            Assert.That(Shape("4.npy", TensorLayout.BatchHeadsSequence), Is.EqualTo(new TensorShape(2, 4, 3, 5)));
            Assert.That(Shape("3.npy", TensorLayout.BatchSequenceHeads), Is.EqualTo(new TensorShape(1, 3, 4, 5)));
            Assert.That(Shape("3.npy", TensorLayout.BatchHeadsSequence), Is.EqualTo(new TensorShape(1, 4, 3, 5)));
            Assert.That(Shape("2.npy", TensorLayout.BatchHeadsSequence), Is.EqualTo(new TensorShape(1, 4, 1, 5)));
        });
    }

    [Test]
    public void WrittenFilesAreReadBack([Values("r.npy", "r.safetensors")] string name, [Values(DType.Float32, DType.Float16, DType.BFloat16)] DType type)
    {
        using HostTensor tensor = HostTensor.Allocate(type, new TensorShape(2, 3, 4, 5), TensorLayout.BatchHeadsSequence);
        tensor.FillNormal(new Random(4), 1);
        OutputFiles.Write([new OutputTensor(_folder[name], "q", HostTensor.Stored(type), tensor.FileShape, tensor.Data)], false, CancellationToken.None);
        using HostTensor read = Load(name, bf16: true, layout: TensorLayout.BatchHeadsSequence);
        Assert.Multiple(() =>
        {
            Assert.That(read.Type, Is.EqualTo(type));
            Assert.That(read.ToFloats(), Is.EqualTo(tensor.ToFloats()));
            Assert.That(_folder.Files, Is.EqualTo(new[] { name }), "no temporary file may be left");
        });
    }

    [Test]
    public void NpyHeaderIsWhatNumPyWrites()
    {
        byte[] header = NpyHeader.Write("<f2", [2, 3]);
        string text = System.Text.Encoding.ASCII.GetString(header, 10, header.Length - 10);
        Assert.Multiple(() =>
        {
            Assert.That(text, Does.StartWith("{'descr': '<f2', 'fortran_order': False, 'shape': (2, 3), }"));
            Assert.That(text, Does.EndWith("\n"));
            Assert.That(header.Length % 64, Is.Zero);
            Assert.That(System.Text.Encoding.ASCII.GetString(NpyHeader.Write("<f2", [7])), Does.Contain("'shape': (7, )"));
        });
    }

    [Test]
    public void SafetensorsDataMayBeUnaligned()
    {
        double[] values = TestTensors.Decode("F32", TestTensors.Encode("F32", TestTensors.Normal(5, 6)));
        byte[] data = [0, .. TestTensors.Encode("F32", values)];
        string header = """{"__metadata__":{"a":"b"},"q":{"dtype":"F32","shape":[2,3],"data_offsets":[1,25]}}""";
        File.WriteAllBytes(_folder["x.safetensors"], TestTensors.Safetensors(header, data));
        using HostTensor tensor = Load("x.safetensors");
        Assert.That(tensor.ToFloats().Select(value => (double)value), Is.EqualTo(values));
    }

    private static IEnumerable<TestCaseData> BadNpy()
    {
        byte[] data = new byte[24];
        yield return Case("empty file", [], "only 0 bytes");
        yield return Case("four bytes", [0x93, 1, 2, 3], "only 4 bytes");
        yield return Case("wrong magic", [.. "not numpy, but long enough"u8], "magic");
        yield return Case("version 9", TestTensors.Npy(TestTensors.Dict("<f4", [2, 3]), data, version: 9), "version 9");
        yield return Case("header longer than the file", TestTensors.Npy(TestTensors.Dict("<f4", [2, 3]), data, claimedLength: 60000), "claims 60000 bytes");
        yield return Case("no dict", TestTensors.Npy("(1, 2)", data), "'{' expected");
        yield return Case("missing key", TestTensors.Npy("{'descr': '<f4', 'shape': (2, 3)}", data), "all needed");
        yield return Case("unknown key", TestTensors.Npy("{'descr': '<f4', 'colour': 'red'}", data), "unknown key 'colour'");
        yield return Case("key twice", TestTensors.Npy("{'descr': '<f4', 'descr': '<f4'}", data), "twice");
        yield return Case("unclosed string", TestTensors.Npy("{'descr: <f4", data), "quoted key");
        yield return Case("text after the dict", TestTensors.Npy(TestTensors.Dict("<f4", [2, 3]) + " x", data), "text after");
        yield return Case("fortran_order 1", TestTensors.Npy("{'descr': '<f4', 'fortran_order': 1, 'shape': (2, 3)}", data), "True or False");
        yield return Case("shape as list", TestTensors.Npy("{'descr': '<f4', 'fortran_order': False, 'shape': [2, 3]}", data), "tuple");
        yield return Case("negative size", TestTensors.Npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 3)}", data), "non-negative");
        yield return Case("size beyond 63 bits", TestTensors.Npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775808, 1)}", data),
            "below 2^63");
        yield return Case("count overflow", TestTensors.Npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4)}", data),
            "more elements");
        yield return Case("structured type", TestTensors.Npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 3)}", data), "structured");
        yield return Case("big-endian", TestTensors.Npy(">f4", [2, 3], new double[6]), "big-endian");
        yield return Case("integers", TestTensors.Npy("<i4", [2, 3], new double[6]), "'<i4'");
        yield return Case("raw bfloat16 without --bf16", TestTensors.Npy("<V2", [2, 3], new double[6]), "--bf16");
        yield return Case("truncated data", TestTensors.Npy(TestTensors.Dict("<f4", [2, 4]), data), "needs 32 bytes");
        yield return Case("trailing data", TestTensors.Npy(TestTensors.Dict("<f4", [2, 2]), data), "8 bytes follow");
        yield return Case("rank 5", TestTensors.Npy(TestTensors.Dict("<f4", [1, 1, 1, 2, 3]), data), "rank 5");
        yield return Case("rank 1", TestTensors.Npy(TestTensors.Dict("<f4", [6]), data), "rank 1");

        static TestCaseData Case(string name, byte[] file, string message) => new TestCaseData(file, message).SetName($"BadNpyIsRefused: {name}");
    }

    [TestCaseSource(nameof(BadNpy))]
    public void BadNpyIsRefused(byte[] file, string message)
    {
        File.WriteAllBytes(_folder["x.npy"], file);
        CliException error = Assert.Throws<CliException>(() => Load("x.npy").Dispose())!;
        Assert.Multiple(() =>
        {
            Assert.That(error.Message, Does.Contain(message));
            Assert.That(error.Message, Does.Contain("x.npy"));
            Assert.That(error.ExitCode, Is.EqualTo(ExitCode.Usage));
        });
    }

    private static IEnumerable<TestCaseData> BadSafetensors()
    {
        byte[] data = new byte[24];
        yield return Case("five bytes", [1, 2, 3, 4, 5], "only 5 bytes");
        yield return Case("huge header", TestTensors.Safetensors("{}", data, ulong.MaxValue), "claims 18446744073709551615 bytes");
        yield return Case("header longer than the file", TestTensors.Safetensors("{}", data, 1000), "claims 1000 bytes");
        yield return Case("no JSON", TestTensors.Safetensors("{\"q\":", data), "no valid JSON");
        yield return Case("JSON array", TestTensors.Safetensors("[1]", data), "no JSON object");
        yield return Header("no such tensor", """{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}""", "no tensor 'q'");
        yield return Header("no dtype", """{"q":{"shape":[2,3],"data_offsets":[0,24]}}""", "needs dtype");
        yield return Header("one offset", """{"q":{"dtype":"F32","shape":[2,3],"data_offsets":[0]}}""", "needs dtype");
        yield return Header("negative size", """{"q":{"dtype":"F32","shape":[-2,3],"data_offsets":[0,24]}}""", "needs dtype");
        yield return Header("fractional size", """{"q":{"dtype":"F32","shape":[2.5,3],"data_offsets":[0,24]}}""", "needs dtype");
        yield return Header("offsets backwards", """{"q":{"dtype":"F32","shape":[2,3],"data_offsets":[24,0]}}""", "before the beginning");
        yield return Header("offsets beyond the file", """{"q":{"dtype":"F32","shape":[2,3],"data_offsets":[8,32]}}""", "ends at byte 32");
        yield return Header("offset near 2^63",
            """{"q":{"dtype":"F32","shape":[2,3],"data_offsets":[9223372036854775800,9223372036854775807]}}""", "the file has 24");
        yield return Header("range and shape differ", """{"q":{"dtype":"F32","shape":[2,2],"data_offsets":[0,24]}}""", "needs 16 bytes");
        yield return Header("count overflow", """{"q":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,24]}}""", "more elements");
        yield return Header("integers", """{"q":{"dtype":"I64","shape":[3],"data_offsets":[0,24]}}""", "I64");
        yield return Header("tensor twice",
            """{"q":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"q":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}""", "twice");
        yield return Header("half a surrogate pair", """{"\ud800":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}""", "no valid JSON");

        TestCaseData Header(string name, string header, string message) => Case(name, TestTensors.Safetensors(header, data), message);

        static TestCaseData Case(string name, byte[] file, string message) => new TestCaseData(file, message).SetName($"BadSafetensorsIsRefused: {name}");
    }

    [TestCaseSource(nameof(BadSafetensors))]
    public void BadSafetensorsIsRefused(byte[] file, string message)
    {
        File.WriteAllBytes(_folder["x.safetensors"], file);
        CliException error = Assert.Throws<CliException>(() => Load("x.safetensors").Dispose())!;
        Assert.Multiple(() =>
        {
            Assert.That(error.Message, Does.Contain(message));
            Assert.That(error.Message, Does.Contain("x.safetensors"));
            Assert.That(error.ExitCode, Is.EqualTo(ExitCode.Usage));
        });
    }

    [Test]
    public void EveryTruncationIsRefused()
    {
        byte[] npy = TestTensors.Npy("<f4", [2, 3], new double[6]);
        byte[] safetensors = TestTensors.Safetensors("""{"q":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}""", new byte[24]);
        foreach ((string name, byte[] file) in new[] { ("x.npy", npy), ("x.safetensors", safetensors) })
        {
            for (int length = 0; length < file.Length; length++)
            {
                File.WriteAllBytes(_folder[name], file[..length]);
                Assert.That(() => Load(name).Dispose(), Throws.TypeOf<CliException>(), $"{name} cut to {length} bytes");
            }
        }
    }

    /// <summary>Whatever single byte of a header changes, the result is a tensor or a clear error, never another exception.</summary>
    [Test]
    public void DamagedHeadersNeverCrash()
    {
        Random random = new(6);
        byte[] npy = TestTensors.Npy("<f4", [2, 3], new double[6]);
        byte[] safetensors = TestTensors.Safetensors("""{"q":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}""", new byte[24]);
        foreach ((string name, byte[] file) in new[] { ("x.npy", npy), ("x.safetensors", safetensors) })
        {
            for (int i = 0; i < 600; i++)
            {
                byte[] damaged = [.. file];
                damaged[random.Next(file.Length - 24)] = (byte)random.Next(256);
                File.WriteAllBytes(_folder[name], damaged);
                try
                {
                    Load(name).Dispose();
                }
                catch (CliException)
                {
                    // The expected answer.
                }
            }
        }
    }

    private HostTensor Load(string name, DType? convertTo = null, bool bf16 = false, TensorLayout layout = TensorLayout.BatchSequenceHeads)
    {
        TensorSource source = TensorSource.Open(_folder[name], "q", "--q-name", bf16);
        try
        {
            return HostTensor.Load(source, layout, convertTo);
        }
        catch
        {
            source.Dispose();
            throw;
        }
    }

    private TensorShape Shape(string name, TensorLayout layout)
    {
        using HostTensor tensor = Load(name, layout: layout);
        return tensor.Shape;
    }
}
