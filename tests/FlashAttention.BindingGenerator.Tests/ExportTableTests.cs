using System.Buffers.Binary;
using System.Text;
using FlashAttention.BindingGenerator.Abi;
using NUnit.Framework;

namespace FlashAttention.BindingGenerator.Tests;

/// <summary>Reading the exports of native libraries.</summary>
internal sealed class ExportTableTests
{
    private const string AnyHeader = "int fa_f(void);\n";

    [Test]
    [Platform("Linux")]
    public void ElfGivesVisibleFunctionsOnly()
    {
        using SampleWorkspace workspace = new(AnyHeader);
        string library = workspace.CompileLibrary("""
            #include <stdlib.h>
            int fa_data = 1;
            static int fa_static(void) { return fa_data; }
            __attribute__((visibility("hidden"))) int fa_hidden(void) { return fa_static(); }
            __attribute__((visibility("protected"))) int fa_protected(void) { return abs(fa_hidden()); }
            __attribute__((weak)) int fa_weak(void) { return 0; }
            int fa_plain(void) { return fa_protected(); }
            """);
        Assert.That(ExportTable.Read(library).Where(name => !name.StartsWith('_')), Is.EqualTo((string[])["fa_plain", "fa_protected", "fa_weak"]));
    }

    [Test]
    public void PeGivesNames()
    {
        using SampleWorkspace workspace = new(AnyHeader);
        string path = workspace.PathOf("library.dll");
        File.WriteAllBytes(path, MakePe("fa_second", "fa_first"));
        Assert.That(ExportTable.Read(path), Is.EqualTo((string[])["fa_first", "fa_second"]));
    }

    [Test]
    public void OtherFilesAreRefusedWithTheirPath()
    {
        using SampleWorkspace workspace = new(AnyHeader);
        Assert.Multiple(() =>
        {
            Assert.That(() => ExportTable.Read(workspace.PathOf("none.so")), Refuses("expected an existing file"));
            Assert.That(() => ExportTable.Read(workspace.Header), Refuses("neither ELF nor PE"));
            Assert.That(() => ExportTable.Read(Write(workspace, [0x7f, (byte)'E', (byte)'L', (byte)'F', 1, 1])), Refuses("expected 64-bit"));
            Assert.That(() => ExportTable.Read(Write(workspace, "MZ"u8.ToArray())), Refuses("damaged"));
        });
    }

    [Test]
    public void EveryTruncationIsRefusedOrRead()
    {
        using SampleWorkspace workspace = new(AnyHeader);
        byte[] pe = MakePe("fa_first");
        for (int length = 2; length < pe.Length; length += 3)
        {
            string path = Write(workspace, pe[..length]);
            Assert.That(() => ReadOrRefuse(path), Throws.Nothing, $"{length} bytes");
        }
    }

    private static NUnit.Framework.Constraints.Constraint Refuses(string reason) => Throws.TypeOf<GeneratorException>().With.Message.Contains(reason);

    private static void ReadOrRefuse(string path)
    {
        try
        {
            ExportTable.Read(path);
        }
        catch (GeneratorException)
        {
            // A damaged file may be refused; any other exception fails the test.
        }
    }

    private static string Write(SampleWorkspace workspace, byte[] bytes)
    {
        string path = workspace.PathOf("bytes");
        File.WriteAllBytes(path, bytes);
        return path;
    }

    /// <summary>The smallest PE32+ image with an export table: headers, then one section at address 0x1000 and file offset 0x200.</summary>
    private static byte[] MakePe(params string[] names)
    {
        const int HeaderOffset = 0x40;
        const int OptionalHeaderBytes = 112 + (16 * 8);
        const int SectionOffset = 0x200;
        const int SectionAddress = 0x1000;
        const int SectionBytes = 0x200;
        const int NameTable = 0x40;
        byte[] file = new byte[SectionOffset + SectionBytes];
        "MZ"u8.CopyTo(file);
        Put32(file, 0x3c, HeaderOffset);
        Put32(file, HeaderOffset, 0x4550);
        Put16(file, HeaderOffset + 6, 1);
        Put16(file, HeaderOffset + 20, OptionalHeaderBytes);
        Put16(file, HeaderOffset + 24, 0x20b);
        Put32(file, HeaderOffset + 24 + 112, SectionAddress);
        int section = HeaderOffset + 24 + OptionalHeaderBytes;
        Put32(file, section + 12, SectionAddress);
        Put32(file, section + 16, SectionBytes);
        Put32(file, section + 20, SectionOffset);
        Put32(file, SectionOffset + 24, names.Length);
        Put32(file, SectionOffset + 32, SectionAddress + NameTable);
        int text = NameTable + (4 * names.Length);
        for (int i = 0; i < names.Length; i++)
        {
            Put32(file, SectionOffset + NameTable + (4 * i), SectionAddress + text);
            text += Encoding.ASCII.GetBytes(names[i], file.AsSpan(SectionOffset + text)) + 1;
        }

        return file;
    }

    private static void Put16(byte[] bytes, int offset, int value) => BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(offset), (ushort)value);

    private static void Put32(byte[] bytes, int offset, int value) => BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(offset), value);
}
