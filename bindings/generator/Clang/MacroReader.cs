using System.Globalization;
using System.Text.RegularExpressions;
using FlashAttention.BindingGenerator.Model;

namespace FlashAttention.BindingGenerator.Clang;

/// <summary>Reads the constants among the macros of the interface from the preprocessor's output.</summary>
internal static partial class MacroReader
{
    /// <summary>Reads the output of <c>clang -E -dD</c>: definitions between line markers.</summary>
    /// <exception cref="GeneratorException">A macro is neither a constant nor a declaration attribute nor empty.</exception>
    public static IReadOnlyList<CConstant> Read(string preprocessed, HeaderSet headers)
    {
        List<CConstant> constants = [];
        Dictionary<string, string[]> sources = [];
        string file = string.Empty;
        int line = 0;
        foreach (string text in preprocessed.Split('\n'))
        {
            Match marker = LineMarker().Match(text);
            if (marker.Success)
            {
                file = marker.Groups["file"].Value.Replace("\\\\", "\\", StringComparison.Ordinal);
                line = int.Parse(marker.Groups["line"].Value, CultureInfo.InvariantCulture);
                continue;
            }

            if (text.StartsWith("#define ", StringComparison.Ordinal) && !file.StartsWith('<') && file.Length > 0 && headers.Contains(file))
            {
                if (!sources.TryGetValue(file, out string[]? source))
                {
                    sources[file] = source = File.ReadAllText(file).Split('\n');
                }

                if (ReadDefinition(text, new SourceLocation(headers.Display(file), line), source) is { } constant)
                {
                    constants.Add(constant);
                }
            }

            line++;
        }

        return constants;
    }

    private static CConstant? ReadDefinition(string text, SourceLocation location, string[] source)
    {
        Match definition = Definition().Match(text);
        string name = definition.Groups["name"].Value;
        string body = definition.Groups["body"].Value.Trim();
        if (definition.Groups["arguments"].Success)
        {
            throw new GeneratorException(location, $"macro '{name}' takes arguments, which has no C# form; expected a constant");
        }

        if (body.Length == 0 || body.StartsWith("__attribute__", StringComparison.Ordinal) || body.StartsWith("__declspec", StringComparison.Ordinal))
        {
            return null;
        }

        CDocumentation documentation = FindDocumentation(source, location.Line - 1);
        if (StringLiteral().IsMatch(body))
        {
            return new CConstant(name, body, "string", documentation, location);
        }

        string literal = body;
        while (literal.StartsWith('(') && literal.EndsWith(')'))
        {
            literal = literal[1..^1].Trim();
        }

        Match integer = IntegerLiteral().Match(literal);
        if (!integer.Success)
        {
            throw new GeneratorException(
                location, $"macro '{name}' is '{body}'; expected an integer literal, a plain string literal, nothing, or an attribute");
        }

        (string value, string type) = ToCSharp(integer, location, name, body);
        return new CConstant(name, value, type, documentation, location);
    }

    /// <summary>C's rule for the type of a literal, in the widths all .NET platforms share: int, unsigned, then 64 bits.</summary>
    private static (string Value, string Type) ToCSharp(Match literal, SourceLocation location, string name, string body)
    {
        string digits = literal.Groups["digits"].Value;
        bool hex = digits.StartsWith("0x", StringComparison.OrdinalIgnoreCase);
        bool negative = literal.Groups["sign"].Value == "-";
        string suffix = literal.Groups["suffix"].Value.ToLowerInvariant();
        if (!hex && digits.Length > 1 && digits[0] == '0')
        {
            throw new GeneratorException(location, $"macro '{name}' is '{body}': octal literals are not supported");
        }

        if (suffix.Contains('l', StringComparison.Ordinal) && !suffix.Contains("ll", StringComparison.Ordinal))
        {
            throw new GeneratorException(location, $"macro '{name}' is '{body}': the width of 'long' differs between platforms; expected LL or no suffix");
        }

        string number = hex ? digits[2..] : digits;
        if (!ulong.TryParse(number, hex ? NumberStyles.HexNumber : NumberStyles.None, CultureInfo.InvariantCulture, out ulong magnitude))
        {
            throw new GeneratorException(location, $"macro '{name}' is '{body}': expected at most 64 bits");
        }

        bool unsigned = suffix.Contains('u', StringComparison.Ordinal);
        bool wide = suffix.Contains("ll", StringComparison.Ordinal);
        string type = (unsigned, wide) switch
        {
            (false, false) when magnitude <= int.MaxValue => "int",
            (false, false) when hex && magnitude <= uint.MaxValue => "uint",
            (true, false) when magnitude <= uint.MaxValue => "uint",
            (false, _) when magnitude <= long.MaxValue => "long",
            _ => "ulong",
        };
        if (negative && type is "uint" or "ulong")
        {
            throw new GeneratorException(location, $"macro '{name}' is '{body}': a negative unsigned literal is not supported");
        }

        string spelled = hex ? "0x" + number.ToUpperInvariant() : number;
        string csharpSuffix = type switch { "uint" => "U", "long" => "L", "ulong" => "UL", _ => string.Empty };
        return ((negative ? "-" : string.Empty) + spelled + csharpSuffix, type);
    }

    /// <summary>The documentation comment above a definition. Definitions on consecutive lines share the comment above the first one.</summary>
    private static CDocumentation FindDocumentation(string[] source, int definitionIndex)
    {
        int last = definitionIndex - 1;
        while (last >= 0 && source[last].TrimStart().StartsWith("#define ", StringComparison.Ordinal))
        {
            last--;
        }

        if (last < 0 || !source[last].TrimEnd().EndsWith("*/", StringComparison.Ordinal))
        {
            return CDocumentation.Empty;
        }

        int first = last;
        while (first > 0 && !source[first].Contains("/*", StringComparison.Ordinal))
        {
            first--;
        }

        string comment = string.Join('\n', source[first..(last + 1)]).Trim();
        return comment.StartsWith("/**", StringComparison.Ordinal) ? DocReader.FromComment(comment) : CDocumentation.Empty;
    }

    [GeneratedRegex("""^# (?<line>\d+) "(?<file>[^"]*)"(?: \d)*$""")]
    private static partial Regex LineMarker();

    [GeneratedRegex(@"^#define (?<name>\w+)(?<arguments>\([^)]*\))?(?<body>.*)$")]
    private static partial Regex Definition();

    [GeneratedRegex("""^"[^"\\]*"$""")]
    private static partial Regex StringLiteral();

    [GeneratedRegex(@"^(?<sign>-?)\s*(?<digits>0[xX][0-9a-fA-F]+|\d+)(?<suffix>[uUlL]*)$")]
    private static partial Regex IntegerLiteral();
}
