using System.Globalization;
using System.Text.RegularExpressions;
using FlashAttention.BindingGenerator.Model;

namespace FlashAttention.BindingGenerator.Abi;

/// <summary>Reads the text form of <see cref="AbiDescription"/>.</summary>
internal static partial class AbiTextReader
{
    /// <summary>Reads a recorded interface.</summary>
    /// <param name="text">What <see cref="AbiDescription.ToText"/> wrote.</param>
    /// <param name="file">For messages.</param>
    /// <exception cref="GeneratorException">A line is none of the known forms.</exception>
    public static AbiDescription Read(string text, string file)
    {
        List<KeyValuePair<string, string>> constants = [];
        List<KeyValuePair<string, string>> handles = [];
        List<EnumAbi> enums = [];
        List<StructLayout> structs = [];
        List<FunctionAbi> functions = [];
        List<KeyValuePair<string, long>> values = [];
        List<FieldLayout> fields = [];
        int lineNumber = 0;
        foreach (string raw in text.Split('\n'))
        {
            lineNumber++;
            string line = raw.TrimEnd();
            if (line.Length == 0 || line[0] == '#')
            {
                continue;
            }

            Match match = Line().Match(line);
            string name = match.Groups["name"].Value;
            string rest = match.Groups["rest"].Value;
            switch (match.Groups["keyword"].Value)
            {
                case "constant":
                    constants.Add(new(name, rest));
                    break;
                case "handle":
                    handles.Add(new(name, rest));
                    break;
                case "enum":
                    enums.Add(new EnumAbi(name, rest, values = []));
                    break;
                case "value" when enums.Count > 0 && long.TryParse(rest, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out long value):
                    values.Add(new(name, value));
                    break;
                case "struct" when StructRest().Match(rest) is { Success: true } numbers:
                    structs.Add(new StructLayout(name, Number(numbers, "size"), Number(numbers, "align"), fields = []));
                    break;
                case "field" when structs.Count > 0 && FieldRest().Match(rest) is { Success: true } numbers:
                    fields.Add(new FieldLayout(name, numbers.Groups["type"].Value, Number(numbers, "offset"), Number(numbers, "size")));
                    break;
                case "function" when Function().Match(line) is { Success: true } function:
                    string parameters = function.Groups["parameters"].Value;
                    functions.Add(new FunctionAbi(
                        function.Groups["name"].Value, function.Groups["result"].Value, parameters == "void" ? [] : parameters.Split(", ")));
                    break;
                default:
                    throw new GeneratorException(new SourceLocation(file, lineNumber), $"cannot read '{line}'");
            }
        }

        return new AbiDescription(constants, handles, enums, structs, functions);
    }

    private static int Number(Match match, string group) => int.Parse(match.Groups[group].Value, CultureInfo.InvariantCulture);

    [GeneratedRegex(@"^\s*(?<keyword>\w+) (?<name>\w+) (?<rest>.+)$")]
    private static partial Regex Line();

    [GeneratedRegex(@"^size (?<size>\d{1,9}) align (?<align>\d{1,9})$")]
    private static partial Regex StructRest();

    [GeneratedRegex(@"^offset (?<offset>\d{1,9}) size (?<size>\d{1,9}) type (?<type>.+)$")]
    private static partial Regex FieldRest();

    [GeneratedRegex(@"^function (?<result>.+) (?<name>\w+)\((?<parameters>.*)\)$")]
    private static partial Regex Function();
}
