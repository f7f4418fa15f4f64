using NUnit.Framework;

namespace FlashAttention.BindingGenerator.Tests;

/// <summary>verify finds every way in which header, C#, record, compiler and library can differ, and names it.</summary>
internal sealed class DriftTests
{
    private const string Header = """
        #include <stdint.h>
        #define FA_ABI_VERSION 1
        #define FA_LIMIT 16
        typedef int32_t fa_kind;
        enum fa_kind_value { FA_KIND_A = 0, FA_KIND_B = 1 };
        typedef struct fa_options {
          uint32_t struct_size;
          int32_t count;
          double factor;
        } fa_options;
        /** Opens. @param options not NULL. */
        int32_t fa_open(const fa_options* options, fa_kind kind);
        int32_t fa_close(int64_t id);

        """;

    private const string Library = "int fa_open(void) { return 0; }\nint fa_close(void) { return 0; }\n";

    private SampleWorkspace _workspace = null!;

    [SetUp]
    public void GenerateOnce()
    {
        _workspace = new SampleWorkspace(Header);
        Assert.That(_workspace.Generate().ExitCode, Is.Zero);
    }

    [TearDown]
    public void RemoveFolder() => _workspace.Dispose();

    [Test]
    public void FreshOutputAgrees()
    {
        (int exitCode, string output) = _workspace.Verify("--library", _workspace.CompileLibrary(Library));
        Assert.Multiple(() =>
        {
            Assert.That(output, Is.EqualTo("header, C#, recorded interface and C compiler agree: 2 functions, 1 structs\n"));
            Assert.That(exitCode, Is.Zero);
        });
    }

    [TestCase(
        "int32_t fa_close(int64_t id);", "int32_t fa_close(int32_t id);",
        "C#: function fa_close is 'int fa_close(long id)'; the header gives 'int fa_close(int id)'",
        "recorded interface: breaking: function fa_close was 'int32_t fa_close(int64_t)' and is 'int32_t fa_close(int32_t)'")]
    [TestCase(
        "int32_t fa_close(int64_t id);", "float fa_close(int64_t id);",
        "C#: function fa_close is 'int fa_close(long id)'; the header gives 'float fa_close(long id)'",
        "recorded interface: breaking: function fa_close was")]
    [TestCase(
        "int32_t fa_close(int64_t id);\n", "",
        "C#: function fa_close is declared; the header has none", "recorded interface: breaking: function fa_close is gone")]
    [TestCase(
        "int32_t fa_close(int64_t id);", "int32_t fa_close(int64_t id);\nvoid fa_new(void);",
        "C#: function fa_new is not declared", "recorded interface: additive: function fa_new is new")]
    [TestCase(
        "  int32_t count;\n  double factor;", "  double factor;\n  int32_t count;",
        "C#: struct fa_options is 'uint struct_size; int count; double factor'; the header gives 'uint struct_size; double factor; int count'",
        "recorded interface: breaking: field fa_options.count was 'int32_t' at offset 4 (4 bytes) and is 'int32_t' at offset 16 (4 bytes)",
        "layout: field fa_options.count is at offset 4 (4 bytes) in C#, 16 (4 bytes) in C",
        "layout: struct fa_options has 16 bytes aligned to 8 in C#, 24 bytes aligned to 8 in C")]
    [TestCase(
        "  int32_t count;", "  float count;",
        "C#: struct fa_options is", "recorded interface: breaking: field fa_options.count was 'int32_t'",
        "layout: field fa_options.count is 'int' in C#, floating point of 4 bytes in C")]
    [TestCase(
        "  double factor;", "  double factor;\n  double more;",
        "recorded interface: additive: field fa_options.more is new at offset 16",
        "layout: field fa_options.more is absent in C#")]
    [TestCase(
        "FA_KIND_B = 1", "FA_KIND_B = 2",
        "C#: enum constant fa_kind.FA_KIND_B is '1'; the header gives '2'",
        "recorded interface: breaking: constant of enum fa_kind: FA_KIND_B was 1 and is 2", "value: FA_KIND_B is 1 in C#, 2 in C")]
    [TestCase("typedef int32_t fa_kind;", "typedef uint32_t fa_kind;", "C#: enum fa_kind is 'int'; the header gives 'uint'",
        "layout: enum fa_kind is int in C#, 4 bytes, unsigned in C")]
    [TestCase(
        "FA_LIMIT 16", "FA_LIMIT 17",
        "C#: constant FA_LIMIT is '16'; the header gives '17'", "recorded interface: breaking: constant FA_LIMIT was 16 and is 17",
        "value: FA_LIMIT is 16 in C#, 17 in C")]
    [TestCase(
        "  int32_t count;", "  int32_t number;",
        "C#: struct fa_options is 'uint struct_size; int count; double factor'; the header gives 'uint struct_size; int number; double factor'",
        "recorded interface: breaking: field fa_options.count is gone", "layout: field fa_options.number is absent in C#")]
    [TestCase(
        "fa_close(int64_t id)", "fa_close(int64_t handle)",
        "C#: function fa_close is 'int fa_close(long id)'; the header gives 'int fa_close(long handle)'")]
    [TestCase(
        "fa_open(const fa_options* options, fa_kind kind)", "fa_open(fa_kind kind, const fa_options* options)",
        "C#: function fa_open is", "recorded interface: breaking: function fa_open was")]
    [TestCase(
        "FA_KIND_B = 1", "FA_KIND_C = 1",
        "C#: enum constant fa_kind.FA_KIND_B is declared; the header has none",
        "recorded interface: breaking: constant of enum fa_kind: FA_KIND_B is gone")]
    [TestCase("fa_options", "fa_settings", "C#: struct fa_settings is not declared", "recorded interface: breaking: struct fa_options is gone")]
    [TestCase("#define FA_LIMIT 16\n", "", "C#: constant FA_LIMIT is declared; the header has none",
        "recorded interface: breaking: constant FA_LIMIT is gone")]
    [TestCase("  double factor;", "  /** Unit: metres. */\n  double factor;", "C#: Structs.g.cs:",
        "expected '/// <summary>Unit: metres.</summary>'")]
    [TestCase("/** Opens. @param", "/** Opens it. @param", "C#: NativeMethods.g.cs:",
        "expected '/// <summary>Opens it.</summary>', got '/// <summary>Opens.</summary>'")]
    public void HeaderEdit(string from, string to, params string[] expected)
    {
        _workspace.EditHeader(from, to);
        ExpectProblems(_workspace.Verify(), expected);
    }

    [TestCase("NativeMethods.g.cs", "fa_close(long id)", "fa_close(int id)",
        "C#: function fa_close is 'int fa_close(int id)'; the header gives 'int fa_close(long id)'")]
    [TestCase("NativeMethods.g.cs", "// C: int32_t fa_close(int64_t id);", "// C: void fa_close(void);", "C#: NativeMethods.g.cs:")]
    [TestCase("Structs.g.cs", "public int count", "public uint count", "layout: field fa_options.count is 'uint' in C#, a signed integer of 4 bytes in C")]
    [TestCase("Structs.g.cs", "public int count", "public nint count", "layout: field fa_options.count is at offset 8 (8 bytes) in C#, 4 (4 bytes) in C")]
    [TestCase("Structs.g.cs", "public double factor", "public double* factor",
        "layout: field fa_options.factor is 'double*' in C#, floating point of 8 bytes in C")]
    [TestCase("Structs.g.cs", "LayoutKind.Sequential", "LayoutKind.Sequential, Pack = 4", "layout: struct fa_options has no readable C# declaration")]
    [TestCase("Enums.g.cs", "fa_kind : int", "fa_kind : long", "layout: enum fa_kind is long in C#, 4 bytes, signed in C")]
    [TestCase("Constants.g.cs", "FA_LIMIT = 16", "FA_LIMIT = 15", "value: FA_LIMIT is 15 in C#, 16 in C")]
    public void GeneratedEdit(string file, string from, string to, string expected)
    {
        _workspace.EditGenerated(file, from, to);
        ExpectProblems(_workspace.Verify(), "C#: ", expected);
    }

    [TestCase("field count offset 4", "field count offset 8", "recorded interface: breaking: field fa_options.count was 'int32_t' at offset 8")]
    [TestCase("function int32_t fa_close(int64_t)\n", "", "recorded interface: additive: function fa_close is new")]
    [TestCase("constant FA_LIMIT 16", "constant FA_LIMIT 12", "recorded interface: breaking: constant FA_LIMIT was 12 and is 16")]
    [TestCase("# Written by", "# Made by", "recorded interface: abi-baseline.txt:2: expected")]
    [TestCase("struct fa_options size 16", "struct fa_options extent 16", "abi-baseline.txt:", "cannot read 'struct fa_options extent 16 align 8'")]
    public void RecordEdit(string from, string to, params string[] expected)
    {
        _workspace.EditBaseline(from, to);
        ExpectProblems(_workspace.Verify(), expected);
    }

    [Test]
    public void MissingAndForeignFiles()
    {
        File.Delete(Path.Combine(_workspace.Output, "Enums.g.cs"));
        File.WriteAllText(Path.Combine(_workspace.Output, "Old.g.cs"), "// nothing\n");
        File.Delete(_workspace.Baseline);
        ExpectProblems(
            _workspace.Verify(),
            "C#: Enums.g.cs is missing", "C#: Old.g.cs is no generated file", "recorded interface: '", "layout: enum fa_kind is absent in C#");
    }

    [Test]
    public void CarriageReturnsOfACheckoutAreNoDifference()
    {
        foreach (string file in Directory.GetFiles(_workspace.Output).Append(_workspace.Baseline))
        {
            File.WriteAllText(file, File.ReadAllText(file).Replace("\n", "\r\n", StringComparison.Ordinal));
        }

        (int exitCode, string output) = _workspace.Verify();
        Assert.That(exitCode, Is.Zero, output);
    }

    [Test]
    public void LibraryWithoutAFunctionAndWithAnExtraOne()
    {
        string library = _workspace.CompileLibrary("int fa_open(void) { return 0; }\nint fa_opem(void) { return 0; }\nint helper(void) { return 0; }\n");
        ExpectProblems(
            _workspace.Verify("--library", library),
            "library: function fa_close is declared in the header but not exported\n"
            + "library: fa_opem is exported but not declared in the header\n2 differences");
    }

    [Test]
    public void MissingCompilerIsAnError()
    {
        (int exitCode, string output) = _workspace.Verify("--cc", "/nonexistent/cc");
        Assert.Multiple(() =>
        {
            Assert.That(exitCode, Is.EqualTo(1));
            Assert.That(output, Does.Contain("error: cannot start '/nonexistent/cc'"));
        });
    }

    private static void ExpectProblems((int ExitCode, string Output) result, params string[] expected)
    {
        Assert.Multiple(() =>
        {
            Assert.That(result.ExitCode, Is.EqualTo(1));
            foreach (string part in expected)
            {
                Assert.That(result.Output, Does.Contain(part));
            }
        });
    }
}
