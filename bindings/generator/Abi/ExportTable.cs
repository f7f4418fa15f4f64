using System.Buffers.Binary;
using System.Text;

namespace FlashAttention.BindingGenerator.Abi;

/// <summary>Names of the functions a native library exports: ELF (Linux) and PE (Windows), both 64-bit and little-endian.</summary>
internal static class ExportTable
{
    private const int ElfDynamicSymbols = 11;
    private const int ElfSymbolBytes = 24;
    private const int ElfFunction = 2;
    private const int ElfIndirectFunction = 10;

    /// <summary>Reads a library.</summary>
    /// <returns>Names in ordinal order.</returns>
    /// <exception cref="GeneratorException">The file is missing, of another format, or damaged.</exception>
    public static IReadOnlyList<string> Read(string path)
    {
        if (!File.Exists(path))
        {
            throw new GeneratorException($"library: expected an existing file, got '{path}'");
        }

        byte[] file = File.ReadAllBytes(path);
        try
        {
            if (file.AsSpan().StartsWith("\u007fELF"u8))
            {
                return ReadElf(file, path);
            }

            if (file.AsSpan().StartsWith("MZ"u8))
            {
                return ReadPe(file, path);
            }
        }
        catch (Exception exception) when (exception is ArgumentOutOfRangeException or IndexOutOfRangeException or OverflowException)
        {
            throw new GeneratorException($"library: '{path}' is damaged: its tables point outside the file");
        }

        throw new GeneratorException($"library: '{path}' is neither ELF nor PE");
    }

    private static List<string> ReadElf(ReadOnlySpan<byte> file, string path)
    {
        const int Class64 = 2;
        const int LittleEndian = 1;
        if (file[4] != Class64 || file[5] != LittleEndian)
        {
            throw new GeneratorException($"library: '{path}' is an ELF file; expected 64-bit little-endian, got class {file[4]}, data {file[5]}");
        }

        int sections = Int(U64(file, 0x28));
        int sectionBytes = U16(file, 0x3a);
        int sectionCount = U16(file, 0x3c);
        for (int i = 0; i < sectionCount; i++)
        {
            ReadOnlySpan<byte> section = file.Slice(sections + (i * sectionBytes), 64);
            if (U32(section, 4) == ElfDynamicSymbols)
            {
                ReadOnlySpan<byte> strings = file.Slice(sections + (Int(U32(section, 40)) * sectionBytes), 64);
                return ReadElfSymbols(SectionData(file, section), SectionData(file, strings));
            }
        }

        throw new GeneratorException($"library: '{path}' has no dynamic symbol table; expected a shared library with section headers");
    }

    private static List<string> ReadElfSymbols(ReadOnlySpan<byte> symbols, ReadOnlySpan<byte> strings)
    {
        List<string> names = [];
        for (int at = 0; at + ElfSymbolBytes <= symbols.Length; at += ElfSymbolBytes)
        {
            ReadOnlySpan<byte> symbol = symbols.Slice(at, ElfSymbolBytes);
            bool isDefined = U16(symbol, 6) != 0;

            // Global or weak, default or protected: what a dynamic linker would bind to.
            bool isVisible = (symbol[4] >> 4) is 1 or 2 && (symbol[5] & 3) is 0 or 3;
            bool isFunction = (symbol[4] & 15) is ElfFunction or ElfIndirectFunction;
            if (isDefined && isVisible && isFunction)
            {
                names.Add(ReadName(strings, Int(U32(symbol, 0))));
            }
        }

        names.Sort(StringComparer.Ordinal);
        return names;
    }

    private static ReadOnlySpan<byte> SectionData(ReadOnlySpan<byte> file, ReadOnlySpan<byte> section) =>
        file.Slice(Int(U64(section, 24)), Int(U64(section, 32)));

    private static List<string> ReadPe(ReadOnlySpan<byte> file, string path)
    {
        const int Pe32Plus = 0x20b;
        int header = Int(U32(file, 0x3c));
        if (U32(file, header) != 0x4550 || U16(file, header + 24) != Pe32Plus)
        {
            throw new GeneratorException($"library: '{path}' is no 64-bit PE file");
        }

        int sectionCount = U16(file, header + 6);
        int optionalHeader = header + 24;
        int sectionTable = optionalHeader + U16(file, header + 20);
        uint directory = U32(file, optionalHeader + 112);
        List<string> names = [];
        if (directory == 0)
        {
            return names;
        }

        int exports = ToOffset(file, sectionTable, sectionCount, directory, path);
        int nameCount = Int(U32(file, exports + 24));
        int nameTable = nameCount == 0 ? 0 : ToOffset(file, sectionTable, sectionCount, U32(file, exports + 32), path);
        for (int i = 0; i < nameCount; i++)
        {
            names.Add(ReadName(file, ToOffset(file, sectionTable, sectionCount, U32(file, nameTable + (4 * i)), path)));
        }

        names.Sort(StringComparer.Ordinal);
        return names;
    }

    /// <summary>From an address in the loaded image to an offset in the file.</summary>
    private static int ToOffset(ReadOnlySpan<byte> file, int sectionTable, int sectionCount, uint address, string path)
    {
        for (int i = 0; i < sectionCount; i++)
        {
            ReadOnlySpan<byte> section = file.Slice(sectionTable + (40 * i), 40);
            uint start = U32(section, 12);
            if (address >= start && address - start < U32(section, 16))
            {
                return Int(address - start + U32(section, 20));
            }
        }

        throw new GeneratorException($"library: '{path}' is damaged: no section holds the address 0x{address:x}");
    }

    private static string ReadName(ReadOnlySpan<byte> bytes, int offset)
    {
        ReadOnlySpan<byte> rest = bytes[offset..];
        int end = rest.IndexOf((byte)0);
        return Encoding.UTF8.GetString(end < 0 ? rest : rest[..end]);
    }

    private static int Int(ulong value) => checked((int)value);

    private static int U16(ReadOnlySpan<byte> bytes, int offset) => BinaryPrimitives.ReadUInt16LittleEndian(bytes[offset..]);

    private static uint U32(ReadOnlySpan<byte> bytes, int offset) => BinaryPrimitives.ReadUInt32LittleEndian(bytes[offset..]);

    private static ulong U64(ReadOnlySpan<byte> bytes, int offset) => BinaryPrimitives.ReadUInt64LittleEndian(bytes[offset..]);
}
