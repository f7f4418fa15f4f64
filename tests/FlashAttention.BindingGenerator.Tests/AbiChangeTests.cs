using FlashAttention.BindingGenerator.Abi;
using NUnit.Framework;

namespace FlashAttention.BindingGenerator.Tests;

/// <summary>generate lets additions pass, refuses breaks, and writes them only on request.</summary>
internal sealed class AbiChangeTests
{
    private const string Header = """
        #include <stdint.h>
        #define FA_ABI_VERSION 1
        #define FA_VERSION_MINOR 1
        typedef int32_t fa_kind;
        enum fa_kind_value { FA_KIND_A = 0 };
        typedef struct fa_fixed { int32_t a; } fa_fixed;
        typedef struct fa_growing { uint32_t struct_size; fa_fixed fixed; double b; } fa_growing;
        typedef struct fa_padded { uint32_t struct_size; int32_t x; double b; int32_t c; } fa_padded;
        typedef struct fa_by_value { uint32_t struct_size; } fa_by_value;
        typedef struct fa_embedded { uint32_t struct_size; } fa_embedded;
        typedef struct fa_outer { fa_embedded inner; } fa_outer;
        fa_by_value fa_get(fa_fixed fixed);
        void fa_set(const fa_growing* growing, fa_by_value value);

        """;

    [TestCase("FA_KIND_A = 0", "FA_KIND_A = 0, FA_KIND_B = 1", "additive: constant of enum fa_kind: FA_KIND_B is new")]
    [TestCase("fa_by_value fa_get", "void fa_more(void);\nfa_by_value fa_get", "additive: function fa_more is new")]
    [TestCase("double b; } fa_growing;", "double b; int32_t* c; } fa_growing;", "additive: field fa_growing.c is new at offset 16")]
    [TestCase("#define FA_ABI_VERSION 1", "#define FA_ABI_VERSION 1\n#define FA_MORE 2", "additive: constant FA_MORE is new")]
    [TestCase("typedef struct fa_fixed", "typedef struct fa_extra { int32_t a; } fa_extra;\ntypedef struct fa_fixed", "additive: struct fa_extra is new")]
    [TestCase("#define FA_VERSION_MINOR 1", "#define FA_VERSION_MINOR 2", "Constants.g.cs")]
    public void AdditionPasses(string from, string to, string expected)
    {
        using SampleWorkspace workspace = Start();
        workspace.EditHeader(from, to);
        (int exitCode, string output) = workspace.Generate();
        Assert.Multiple(() =>
        {
            Assert.That(output, Does.Contain(expected).And.Not.Contain("breaking"));
            Assert.That(exitCode, Is.Zero);
            Assert.That(workspace.Verify().ExitCode, Is.Zero);
        });
    }

    [TestCase("FA_KIND_A = 0", "FA_KIND_B = 0", "breaking: constant of enum fa_kind: FA_KIND_A is gone")]
    [TestCase("fa_by_value fa_get(fa_fixed fixed);", "", "breaking: function fa_get is gone")]
    [TestCase("fa_get(fa_fixed fixed)", "fa_get(const fa_fixed* fixed)", "breaking: function fa_get was 'fa_by_value fa_get(fa_fixed)'")]
    [TestCase("int32_t a; } fa_fixed;", "int32_t a; int32_t b; } fa_fixed;",
        "breaking: field fa_fixed.b is new at offset 4, but the struct does not begin with struct_size")]
    [TestCase("fa_fixed fixed; double b;", "fa_fixed fixed; int64_t c; double b;",
        "breaking: field fa_growing.b was 'double' at offset 8 (8 bytes) and is 'double' at offset 16")]
    [TestCase("double b; int32_t c; } fa_padded", "double b; int32_t c; int32_t d; } fa_padded",
        "breaking: field fa_padded.d is new at offset 20, inside the 24 bytes")]
    [TestCase("uint32_t struct_size; } fa_by_value", "uint32_t struct_size; int32_t a; } fa_by_value",
        "breaking: field fa_by_value.a is new at offset 4, but function fa_get passes")]
    [TestCase("uint32_t struct_size; } fa_embedded", "uint32_t struct_size; int32_t a; } fa_embedded",
        "breaking: field fa_outer.inner was 'fa_embedded' at offset 0 (4 bytes)")]
    [TestCase("double b; } fa_growing", "double c; } fa_growing", "breaking: field fa_growing.b is gone")]
    [TestCase("typedef int32_t fa_kind", "typedef int64_t fa_kind", "breaking: enum fa_kind was int32_t and is int64_t")]
    [TestCase("#define FA_ABI_VERSION 1", "#define FA_ABI_VERSION 2", "breaking: constant FA_ABI_VERSION was 1 and is 2")]
    public void BreakIsRefusedUntilAccepted(string from, string to, string expected)
    {
        using SampleWorkspace workspace = Start();
        Dictionary<string, string> before = ReadAll(workspace);
        workspace.EditHeader(from, to);
        (int exitCode, string output) = workspace.Generate();
        Assert.Multiple(() =>
        {
            Assert.That(output, Does.Contain(expected).And.Contain("--accept-abi-change"));
            Assert.That(exitCode, Is.EqualTo(1));
            Assert.That(ReadAll(workspace), Is.EqualTo(before), "nothing may be written");
            Assert.That(workspace.Verify().ExitCode, Is.EqualTo(1));
        });

        (exitCode, output) = workspace.Generate("--accept-abi-change");
        Assert.Multiple(() =>
        {
            Assert.That(exitCode, Is.Zero);
            bool isRaised = to.Contains("FA_ABI_VERSION", StringComparison.Ordinal);
            Assert.That(output, isRaised ? Does.Not.Contain("FA_ABI_VERSION is still") : Does.Contain("FA_ABI_VERSION is still 1"));
            Assert.That(workspace.Verify().ExitCode, Is.Zero);
        });
    }

    [Test]
    public void SecondRunWritesNothing()
    {
        using SampleWorkspace workspace = Start();
        Dictionary<string, string> first = ReadAll(workspace);
        (int exitCode, string output) = workspace.Generate();
        Assert.Multiple(() =>
        {
            Assert.That(exitCode, Is.Zero);
            Assert.That(output, Does.Not.Contain("wrote"));
            Assert.That(ReadAll(workspace), Is.EqualTo(first));
        });
    }

    [Test]
    public void StaleGeneratedFileIsRemovedAndHandWrittenOneStays()
    {
        using SampleWorkspace workspace = Start();
        string stale = Path.Combine(workspace.Output, "Old.g.cs");
        string mine = Path.Combine(workspace.Output, "Mine.cs");
        File.WriteAllText(stale, string.Empty);
        File.WriteAllText(mine, string.Empty);
        workspace.Generate();
        Assert.Multiple(() =>
        {
            Assert.That(File.Exists(stale), Is.False);
            Assert.That(File.Exists(mine), Is.True);
        });
    }

    [Test]
    public void TextFormReadsBackEqual()
    {
        using SampleWorkspace workspace = new(Header);
        AbiDescription description = AbiDescription.From(workspace.Parse());
        string text = description.ToText();
        AbiDescription back = AbiTextReader.Read(text, "text");
        Assert.Multiple(() =>
        {
            Assert.That(back.ToText(), Is.EqualTo(text));
            Assert.That(AbiComparison.Compare(description, back), Is.Empty);
            Assert.That(text, Does.Contain("struct fa_padded size 24 align 8\n  field struct_size offset 0 size 4 type uint32_t\n"));
            Assert.That(text, Does.Contain("  field c offset 16 size 4 type int32_t\n").And.Contain("function void fa_set(const fa_growing*, fa_by_value)\n"));
            Assert.That(text, Does.Not.Contain("FA_VERSION_"));
        });
    }

    private static SampleWorkspace Start()
    {
        SampleWorkspace workspace = new(Header);
        Assert.That(workspace.Generate().ExitCode, Is.Zero);
        return workspace;
    }

    private static Dictionary<string, string> ReadAll(SampleWorkspace workspace) =>
        Directory.GetFiles(workspace.Output).Append(workspace.Baseline).ToDictionary(path => path, File.ReadAllText);
}
