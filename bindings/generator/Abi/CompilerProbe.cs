using System.Globalization;
using System.Text;
using FlashAttention.BindingGenerator.Clang;
using FlashAttention.BindingGenerator.Model;

namespace FlashAttention.BindingGenerator.Abi;

/// <summary>What the C compiler made of a field. Kind: 'i' signed, 'u' unsigned, 'f' floating point, 'o' anything else.</summary>
internal sealed record ProbedField(int Offset, int Size, char Kind);

/// <summary>What the C compiler made of the headers, in bytes.</summary>
internal sealed class ProbedValues
{
    /// <summary>Size and alignment per struct.</summary>
    public Dictionary<string, (int Size, int Alignment)> Structs { get; } = [];

    /// <summary>Fields by (struct, field).</summary>
    public Dictionary<(string Struct, string Field), ProbedField> Fields { get; } = [];

    /// <summary>Size and signedness ('i' or 'u') per enum typedef.</summary>
    public Dictionary<string, (int Size, char Kind)> Enums { get; } = [];

    /// <summary>Values of enum constants and integer macros.</summary>
    public Dictionary<string, long> Values { get; } = [];
}

/// <summary>Asks the C compiler for sizes, offsets and values by compiling and running a small program.</summary>
internal static class CompilerProbe
{
    private static readonly string[] CompilerNames = ["cc", "gcc", "clang"];

    /// <summary>Compiles and runs the probe.</summary>
    /// <param name="api">What to ask for.</param>
    /// <param name="headers">What the program includes.</param>
    /// <param name="compiler">Path of a C11 compiler; null to look for one.</param>
    /// <exception cref="GeneratorException">There is no compiler, or it refuses the program.</exception>
    public static ProbedValues Run(CApi api, HeaderSet headers, string? compiler = null)
    {
        string tool = ProcessRunner.FindTool(compiler, "CC", CompilerNames);
        DirectoryInfo folder = Directory.CreateTempSubdirectory("fa-abi-probe-");
        try
        {
            string source = Path.Combine(folder.FullName, "probe.c");
            string program = Path.Combine(folder.FullName, OperatingSystem.IsWindows() ? "probe.exe" : "probe");
            File.WriteAllText(source, WriteProgram(api, headers));
            ProcessRunner.Run(tool, ["-std=c11", "-I", headers.IncludeFolder, source, "-o", program]);
            return ReadOutput(ProcessRunner.Run(program, []));
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    private static string WriteProgram(CApi api, HeaderSet headers)
    {
        StringBuilder program = new();
        program.Append(CultureInfo.InvariantCulture, $"#include \"{headers.Display(headers.Header)}\"\n");
        program.Append("""
            #include <stddef.h>
            #include <stdio.h>
            #define KIND(x) _Generic((x), char: 'u', signed char: 'i', unsigned char: 'u', short: 'i', unsigned short: 'u', int: 'i', unsigned: 'u', \
              long: 'i', unsigned long: 'u', long long: 'i', unsigned long long: 'u', float: 'f', double: 'f', default: 'o')
            #define STRUCT(s) printf("struct " #s " %zu %zu\n", sizeof(s), _Alignof(s))
            #define FIELD(s, f, element) printf("field " #s " " #f " %zu %zu %c\n", offsetof(s, f), sizeof(((s*)0)->f), KIND(((s*)0)->element))
            #define ENUM(e) printf("enum " #e " %zu %c\n", sizeof(e), (e)-1 < (e)1 ? 'i' : 'u')
            #define VALUE(v) printf("value " #v " %lld\n", (long long)(v))
            int main(void) {

            """.ReplaceLineEndings("\n"));
        foreach (CStruct s in api.Structs)
        {
            // The typedef is optional in C, so the tag names the struct.
            program.Append(CultureInfo.InvariantCulture, $"  typedef struct {s.Name} tag_{s.Name};\n  STRUCT(tag_{s.Name});\n");
            foreach (CField field in s.Fields)
            {
                string element = field.Type.ArrayLength is null ? field.Name : field.Name + "[0]";
                program.Append(CultureInfo.InvariantCulture, $"  FIELD(tag_{s.Name}, {field.Name}, {element});\n");
            }
        }

        foreach (CEnum e in api.Enums)
        {
            program.Append(CultureInfo.InvariantCulture, $"  ENUM({e.Name});\n");
            foreach (CEnumMember member in e.Members)
            {
                program.Append(CultureInfo.InvariantCulture, $"  VALUE({member.Name});\n");
            }
        }

        foreach (CConstant constant in api.Constants.Where(constant => constant.CSharpType != "string"))
        {
            // Not VALUE(…): the macro's name would be replaced before it is printed.
            program.Append(CultureInfo.InvariantCulture, $"  printf(\"value {constant.Name} %lld\\n\", (long long)({constant.Name}));\n");
        }

        return program.Append("  return 0;\n}\n").ToString();
    }

    private static ProbedValues ReadOutput(string output)
    {
        ProbedValues values = new();
        foreach (string line in output.Split('\n', StringSplitOptions.RemoveEmptyEntries))
        {
            string[] words = line.TrimEnd('\r').Split(' ');
            switch (words[0])
            {
                case "struct":
                    values.Structs[Untag(words[1])] = (Number(words[2]), Number(words[3]));
                    break;
                case "field":
                    values.Fields[(Untag(words[1]), words[2])] = new ProbedField(Number(words[3]), Number(words[4]), words[5][0]);
                    break;
                case "enum":
                    values.Enums[words[1]] = (Number(words[2]), words[3][0]);
                    break;
                default:
                    values.Values[words[1]] = long.Parse(words[2], CultureInfo.InvariantCulture);
                    break;
            }
        }

        return values;
    }

    private static string Untag(string name) => name["tag_".Length..];

    private static int Number(string word) => int.Parse(word, CultureInfo.InvariantCulture);
}
