using NUnit.Framework;

namespace FlashAttention.BindingGenerator.Tests;

/// <summary>What has no C# form is an error that names the header, the line and the reason; nothing is skipped silently.</summary>
internal sealed class UnsupportedConstructTests
{
    [TestCase("void fa_f(void (*callback)(int));", "parameter 'callback' of function 'fa_f'", "function pointers are not supported")]
    [TestCase("void (*fa_f(int a))(int);", "function 'fa_f' has the type", "not supported")]
    [TestCase("typedef void (*fa_callback)(int);", "typedef 'fa_callback'", "function pointers are not supported")]
    [TestCase("struct fa_s { void (*callback)(void); };", "field 'fa_s.callback'", "function pointers are not supported")]
    [TestCase("union fa_u { int a; float b; };", "union 'fa_u' is not supported")]
    [TestCase("struct fa_s { union { int a; float b; }; };", "struct 'fa_s' contains a nested union")]
    [TestCase("struct fa_s { struct { int a; } inner; };", "struct 'fa_s' contains a nested struct")]
    [TestCase("struct fa_s { int a : 3; };", "field 'fa_s.a' is a bit field")]
    [TestCase("struct fa_s { int n; int a[]; };", "field 'fa_s.a'", "expected one array bound")]
    [TestCase("struct fa_s { int a[2][3]; };", "field 'fa_s.a'", "expected one array bound")]
    [TestCase("struct fa_s { int a[0]; };", "field 'fa_s.a'", "expected one array bound")]
    [TestCase("struct fa_s { volatile int a; };", "field 'fa_s.a'", "'volatile' is not supported")]
    [TestCase("struct fa_s { int a; } __attribute__((packed));", "struct 'fa_s'", "PackedAttr")]
    [TestCase("struct fa_s { __attribute__((aligned(64))) int a; };", "field 'fa_s.a'", "AlignedAttr")]
    [TestCase("typedef struct { int a; } fa_s;", "anonymous struct")]
    [TestCase("typedef struct fa_tag { int a; } fa_s;", "typedef 'fa_s' names 'struct fa_tag'", "expected a struct with the tag 'fa_s'")]
    [TestCase("struct fa_s { int a; }; typedef struct fa_s* fa_s_pointer;", "typedef 'fa_s_pointer'", "must be 'void*' or point to an incomplete struct")]
    [TestCase("typedef int fa_quad[4];", "typedef 'fa_quad' is the array")]
    [TestCase("enum fa_e { FA_A };", "enum 'fa_e' has no integer typedef")]
    [TestCase("enum { FA_A };", "an anonymous enum has no integer typedef")]
    [TestCase("typedef enum fa_e { FA_A } fa_e;", "typedef 'fa_e' is an enum", "its size is the compiler's choice")]
    [TestCase("typedef float fa_e; enum fa_e_value { FA_A };", "typedef 'fa_e' is 'float'", "expected a fixed-width integer")]
    [TestCase("long fa_f(void);", "result of function 'fa_f'", "its width differs between platforms; expected int64_t")]
    [TestCase("void fa_f(unsigned long a);", "parameter 'a' of function 'fa_f'", "expected uint64_t")]
    [TestCase("void fa_f(_Bool a);", "parameter 'a'", "expected int32_t with 0 and 1")]
    [TestCase("void fa_f(long double a);", "parameter 'a'", "expected double")]
    [TestCase("void fa_f(__int128 a);", "parameter 'a'", "expected a fixed-width scalar")]
    [TestCase("struct fa_o; void fa_f(struct fa_o a);", "parameter 'a'", "the struct is incomplete")]
    [TestCase("void fa_f(int);", "parameter 1 of function 'fa_f' has no name")]
    [TestCase("void fa_f(int a, ...);", "function 'fa_f' takes a variable number of arguments")]
    [TestCase("static inline int fa_f(void) { return 1; }", "function 'fa_f' is defined in the header")]
    [TestCase("__attribute__((ms_abi)) void fa_f(void);", "function 'fa_f'", "__attribute__")]
    [TestCase("__attribute__((deprecated)) void fa_f(void);", "function 'fa_f' has the attribute DeprecatedAttr")]
    [TestCase("void fa_f(void); void fa_f(void);", "function 'fa_f' is declared twice")]
    [TestCase("extern int fa_global;", "variable 'fa_global' is exported")]
    [TestCase("#define FA_SQUARE(x) ((x) * (x))", "macro 'FA_SQUARE' takes arguments")]
    [TestCase("#define FA_SUM 1 + 2", "macro 'FA_SUM' is '1 + 2'; expected an integer literal")]
    [TestCase("#define FA_HALF 0.5", "macro 'FA_HALF' is '0.5'")]
    [TestCase("#define FA_OCTAL 017", "octal literals are not supported")]
    [TestCase("#define FA_LONG 1L", "the width of 'long' differs")]
    [TestCase("#define FA_WIDE 0x1FFFFFFFFFFFFFFFF", "expected at most 64 bits")]
    [TestCase("/** Does. @param b wrong. */ void fa_f(int a);", "documents 'b', which is none of its parameters")]
    [TestCase("/** Does. @return nothing. */ int fa_f(int a);", "unsupported documentation element BlockCommandComment")]
    public void ErrorNamesPlaceAndReason(string declaration, params string[] expected)
    {
        using SampleWorkspace workspace = new("/* line 1 */\n\nint fa_first(void);\n" + declaration + "\n");
        (int exitCode, string output) = workspace.Generate();
        Assert.Multiple(() =>
        {
            Assert.That(exitCode, Is.EqualTo(1));
            Assert.That(output, Does.Contain("sample/sample.h:4: "));
            foreach (string part in expected)
            {
                Assert.That(output, Does.Contain(part));
            }

            Assert.That(Directory.Exists(workspace.Output), Is.False, "nothing may be written");
        });
    }

    [Test]
    public void PlaceIsRightInAnIncludedHeaderAndAfterIt()
    {
        using SampleWorkspace workspace = new("#include <stdint.h>\n#include \"sample/other.h\"\n\nint32_t fa_late(int32_t a);\n");
        File.WriteAllText(Path.Combine(Path.GetDirectoryName(workspace.Header)!, "other.h"), "#pragma once\n#include <stddef.h>\n\n\nint fa_x(long a);\n");
        Assert.That(workspace.Generate().Output, Does.Contain("error: sample/other.h:5: parameter 'a' of function 'fa_x'"));

        File.WriteAllText(Path.Combine(Path.GetDirectoryName(workspace.Header)!, "other.h"), "#pragma once\n#include <stddef.h>\n\n\nint fa_x(int a);\n");
        workspace.WriteHeader("#include <stdint.h>\n#include \"sample/other.h\"\n\nint32_t fa_late(long a);\n");
        Assert.That(workspace.Generate().Output, Does.Contain("error: sample/sample.h:4: parameter 'a' of function 'fa_late'"));
    }

    [TestCase(
        "#define FA_API __attribute__((visibility(\"default\")))\n\n\nFA_API void fa_f(void (*callback)(int));\n",
        "sample/sample.h:4: parameter 'callback'")]
    [TestCase("int fa_first(int a,\n\n int b); void fa_f(int);\n", "sample/sample.h:3: parameter 1")]
    [TestCase("struct fa_s {\n int a;\n}; void fa_f(int);\n", "sample/sample.h:3: parameter 1")]
    public void PlaceIsRightOnALineThatClangMentionedBefore(string header, string expected)
    {
        using SampleWorkspace workspace = new(header);
        Assert.That(workspace.Generate().Output, Does.Contain($"error: {expected}"));
    }

    [Test]
    public void SyntaxErrorCarriesTheCompilersWords()
    {
        using SampleWorkspace workspace = new("int fa_f(void)\nint fa_g(void);\n");
        (int exitCode, string output) = workspace.Generate();
        Assert.Multiple(() =>
        {
            Assert.That(exitCode, Is.EqualTo(1));
            Assert.That(output, Does.Contain("sample.h:1:").And.Contain("expected"));
        });
    }

    [Test]
    public void FunctionWithoutPrototypeIsRefused()
    {
        using SampleWorkspace workspace = new("int fa_f();\n");
        (int exitCode, string output) = workspace.Generate();
        Assert.Multiple(() =>
        {
            Assert.That(exitCode, Is.EqualTo(1));
            Assert.That(output, Does.Contain("sample.h:1:").And.Contain("prototype"));
        });
    }

    [Test]
    public void MissingHeaderMissingToolAndEmptyInterface()
    {
        using SampleWorkspace workspace = new("#include <stdint.h>\n");
        using StringWriter output = new();
        Assert.Multiple(() =>
        {
            Assert.That(workspace.Generate().Output, Does.Contain("declares no function"));
            Assert.That(workspace.Generate("--clang", "/nonexistent/clang").Output, Does.Contain("cannot start '/nonexistent/clang'"));
            Assert.That(Program.Run(["generate", "--header", workspace.PathOf("none.h")], output, output), Is.EqualTo(1));
            Assert.That(output.ToString(), Does.Contain("header: expected an existing file"));
            Assert.That(Program.Run(["generate", "--unknown"], output, output), Is.EqualTo(2));
            Assert.That(Program.Run([], output, output), Is.EqualTo(2));
            Assert.That(Program.Run(["generate", "--help"], output, output), Is.Zero);
        });
    }
}
