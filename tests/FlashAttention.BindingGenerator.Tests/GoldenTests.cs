using NUnit.Framework;

namespace FlashAttention.BindingGenerator.Tests;

/// <summary>Each kind of declaration gives exactly this C#.</summary>
internal sealed class GoldenTests
{
    private const string MethodsTop = """
        using System.Runtime.CompilerServices;
        using System.Runtime.InteropServices;

        [assembly: DisableRuntimeMarshalling]

        namespace FlashAttention.Interop;

        #pragma warning disable CS1573 // The headers document the parameters that need it.


        """;

    private const string ClassTop = """
        /// <summary>The functions of the C interface, with their C names. Each wants what its C comment says; nothing is checked on this side.</summary>
        internal static unsafe partial class NativeMethods
        {
            /// <summary>Name of the native library, without the platform's prefix and suffix.</summary>
            internal const string LibraryName = "flash_attention";


        """;

    private const string StructsTop = """
        using System.Runtime.InteropServices;

        namespace FlashAttention.Interop;

        #pragma warning disable CS0649 // Fields that only native code writes.


        """;

    private const string Dummy = "int fa_dummy(void);\n";

    [TestCase("int32_t fa_f(void);", "int fa_f()")]
    [TestCase("void fa_f(void);", "void fa_f()")]
    [TestCase("const char* fa_f(void);", "byte* fa_f()")]
    [TestCase("double fa_f(float x, double y);", "double fa_f(float x, double y)")]
    [TestCase("void fa_f(int8_t a, uint8_t b, int16_t c, uint16_t d);", "void fa_f(sbyte a, byte b, short c, ushort d)")]
    [TestCase("void fa_f(int32_t a, uint32_t b, int64_t c, uint64_t d);", "void fa_f(int a, uint b, long c, ulong d)")]
    [TestCase("void fa_f(size_t a, intptr_t b, uintptr_t c, ptrdiff_t d);", "void fa_f(nuint a, nint b, nuint c, nint d)")]
    [TestCase("void fa_f(const void* a, void** b, const char* const* c, uint64_t* d);", "void fa_f(void* a, void** b, byte** c, ulong* d)")]
    [TestCase("struct fa_o; void fa_f(struct fa_o* a, struct fa_o** b);", "void fa_f(nint a, nint* b)")]
    [TestCase("void fa_f(int32_t event, int32_t params, int32_t ref);", "void fa_f(int @event, int @params, int @ref)")]
    [TestCase("typedef int64_t fa_length; void fa_f(fa_length n, fa_length* out);", "void fa_f(long n, long* @out)")]
    public void FunctionSignature(string declaration, string expected)
    {
        string methods = SampleWorkspace.Emit("#include <stddef.h>\n#include <stdint.h>\n" + declaration, "NativeMethods.g.cs");
        Assert.That(methods, Does.Contain($"    [LibraryImport(LibraryName)]\n    internal static partial {expected};\n}}\n"));
    }

    [Test]
    public void FunctionWithHandleEnumAndDocumentation()
    {
        const string Header = """
            #include <stdint.h>
            /** Kind. */
            typedef int32_t fa_kind;
            enum fa_kind_value { FA_KIND_A };
            typedef void* fa_queue;
            typedef struct fa_thing_object* fa_thing;
            /* An ordinary comment is not documentation. */
            /** Makes a thing if a < b && c <= d.
             * Second line.
             *
             * More about it. @param out_thing receives it;
             * not NULL. @param queue may be NULL. */
            __attribute__((visibility("default"))) fa_kind fa_make(fa_queue queue, fa_kind kind, const fa_kind* kinds, fa_thing* out_thing);
            """;
        Assert.That(SampleWorkspace.Emit(Header, "NativeMethods.g.cs"), Is.EqualTo(MethodsTop + """
            // C: typedef void* fa_queue; here nint
            // C: typedef struct fa_thing_object* fa_thing; here nint

            """ + ClassTop + """
                // C: fa_kind fa_make(fa_queue queue, fa_kind kind, const fa_kind* kinds, fa_thing* out_thing);
                /// <summary>Makes a thing if a &lt; b &amp;&amp; c &lt;= d. Second line.</summary>
                /// <remarks>More about it.</remarks>
                /// <param name="out_thing">receives it; not NULL.</param>
                /// <param name="queue">may be NULL.</param>
                [LibraryImport(LibraryName)]
                internal static partial fa_kind fa_make(nint queue, fa_kind kind, fa_kind* kinds, nint* out_thing);
            }

            """));
    }

    [Test]
    public void LongSignatureIsWrapped()
    {
        string parameters = string.Join(", ", Enumerable.Range(0, 12).Select(i => $"int parameter_number_{i}"));
        string methods = SampleWorkspace.Emit($"void fa_f({parameters});", "NativeMethods.g.cs");
        Assert.Multiple(() =>
        {
            Assert.That(methods, Does.Contain("    internal static partial void fa_f(\n        int parameter_number_0,\n        int parameter_number_1,\n"));
            Assert.That(methods, Does.Contain("        int parameter_number_11);\n}\n"));
            Assert.That(methods.Split('\n').Max(line => line.Length), Is.LessThanOrEqualTo(160));
        });
    }

    [Test]
    public void Struct()
    {
        const string Header = Dummy + """
            #include <stdint.h>
            typedef int32_t fa_kind;
            enum fa_kind_value { FA_KIND_A };
            typedef void* fa_queue;
            /** A pair. */
            typedef struct fa_pair { int8_t a; /**< First. */ double b; } fa_pair;
            struct fa_all {
              /** Size. */
              uint32_t struct_size;
              fa_kind kind;
              int64_t sizes[4];
              char name[128];
              const fa_pair* pairs;
              fa_pair event;
              struct fa_pair second;
              fa_queue queue;
              void** pointers;
            };
            """;
        Assert.That(SampleWorkspace.Emit(Header, "Structs.g.cs"), Is.EqualTo(StructsTop + """
            // C: struct fa_pair
            /// <summary>A pair.</summary>
            [StructLayout(LayoutKind.Sequential)]
            internal unsafe struct fa_pair
            {
                /// <summary>First.</summary>
                public sbyte a;

                public double b;
            }

            // C: struct fa_all
            [StructLayout(LayoutKind.Sequential)]
            internal unsafe struct fa_all
            {
                /// <summary>Size.</summary>
                public uint struct_size;

                public fa_kind kind;

                public fixed long sizes[4];

                public fixed byte name[128];

                public fa_pair* pairs;

                public fa_pair @event;

                public fa_pair second;

                public nint queue;

                public void** pointers;
            }

            """));
    }

    [Test]
    public void ArraysOfStructsAndHandlesAreInlineArrays()
    {
        const string Header = Dummy + "typedef void* fa_queue;\nstruct fa_pair { int a; };\n"
            + "struct fa_many { struct fa_pair pairs[3]; fa_queue queues[2]; const float* rows[2]; };\n";
        Assert.That(SampleWorkspace.Emit(Header, "Structs.g.cs"), Is.EqualTo("using System.Runtime.CompilerServices;\n" + StructsTop + """
            // C: struct fa_pair
            [StructLayout(LayoutKind.Sequential)]
            internal unsafe struct fa_pair
            {
                public int a;
            }

            // C: struct fa_many
            [StructLayout(LayoutKind.Sequential)]
            internal unsafe struct fa_many
            {
                public fa_many_pairs_array pairs;

                public fa_many_queues_array queues;

                public fa_many_rows_array rows;
            }

            /// <summary>The array <see cref="fa_many.pairs"/>.</summary>
            [InlineArray(3)]
            internal struct fa_many_pairs_array
            {
                private fa_pair _element0;
            }

            /// <summary>The array <see cref="fa_many.queues"/>.</summary>
            [InlineArray(2)]
            internal struct fa_many_queues_array
            {
                private nint _element0;
            }

            /// <summary>The array <see cref="fa_many.rows"/>.</summary>
            [InlineArray(2)]
            internal struct fa_many_rows_array
            {
                private nint _element0;
            }

            """));
    }

    [Test]
    public void EnumIsJoinedWithItsTypedef()
    {
        const string Header = Dummy + """
            #include <stdint.h>
            /** Colour. */
            typedef int32_t fa_color;
            enum fa_color_value {
              /** Red. */
              FA_COLOR_RED = 3,
              FA_COLOR_GREEN,
              FA_COLOR_BLUE = -2,
              FA_COLOR_MIX = FA_COLOR_RED | 8
            };
            typedef uint8_t fa_bit;
            /** Bits. */
            enum fa_bit_value { FA_BIT_ZERO, FA_BIT_ONE };
            """;
        Assert.That(SampleWorkspace.Emit(Header, "Enums.g.cs"), Is.EqualTo("""
            namespace FlashAttention.Interop;

            // C: typedef int32_t fa_color; enum fa_color_value
            /// <summary>Colour.</summary>
            internal enum fa_color : int
            {
                /// <summary>Red.</summary>
                FA_COLOR_RED = 3,

                FA_COLOR_GREEN = 4,

                FA_COLOR_BLUE = -2,

                FA_COLOR_MIX = 11,
            }

            // C: typedef uint8_t fa_bit; enum fa_bit_value
            /// <summary>Bits.</summary>
            internal enum fa_bit : byte
            {
                FA_BIT_ZERO = 0,

                FA_BIT_ONE = 1,
            }

            """));
    }

    [Test]
    public void Constants()
    {
        const string Header = Dummy + """
            #ifndef GUARD_H
            #define GUARD_H
            #define FA_EXPORT __attribute__((visibility("default")))
            /** The answer,
             * in one place. */
            #define FA_ANSWER 42
            #define FA_NEXT 43

            #define FA_NEGATIVE (-7)
            #define FA_MASK 0xff00ff00
            #define FA_UNSIGNED 7u
            #define FA_BIG 5000000000
            #define FA_HUGE 0xFFFFFFFFFFFFFFFFull
            #define FA_NAME "sample"
            #endif
            """;
        Assert.That(SampleWorkspace.Emit(Header, "Constants.g.cs"), Is.EqualTo("""
            namespace FlashAttention.Interop;

            /// <summary>Constants of the C headers.</summary>
            internal static class NativeConstants
            {
                /// <summary>The answer, in one place.</summary>
                internal const int FA_ANSWER = 42;

                /// <summary>The answer, in one place.</summary>
                internal const int FA_NEXT = 43;

                internal const int FA_NEGATIVE = -7;

                internal const uint FA_MASK = 0xFF00FF00U;

                internal const uint FA_UNSIGNED = 7U;

                internal const long FA_BIG = 5000000000L;

                internal const ulong FA_HUGE = 0xFFFFFFFFFFFFFFFFUL;

                internal const string FA_NAME = "sample";
            }

            """));
    }

    [Test]
    public void SystemHeadersGiveNothing()
    {
        string header = "#include <stdint.h>\n#include <stdio.h>\n" + Dummy;
        Assert.Multiple(() =>
        {
            Assert.That(SampleWorkspace.Emit(header, "NativeMethods.g.cs"), Does.Not.Contain("printf"));
            Assert.That(SampleWorkspace.Emit(header, "Constants.g.cs"), Does.Not.Contain("const"));
            Assert.That(SampleWorkspace.Emit(header, "Structs.g.cs"), Does.Not.Contain("struct"));
        });
    }

    [Test]
    public void FilesStartWithTheirOriginAndHaveNoCarriageReturn()
    {
        using SampleWorkspace workspace = new(Dummy);
        workspace.Generate();
        foreach (string file in Directory.GetFiles(workspace.Output))
        {
            string text = File.ReadAllText(file);
            Assert.That(text, Does.StartWith("// <auto-generated>\n//   Made from sample/sample.h by bindings/generator. Do not edit").And.Not.Contains("\r"));
        }
    }
}
