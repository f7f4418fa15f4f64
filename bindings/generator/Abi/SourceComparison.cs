using System.Globalization;

namespace FlashAttention.BindingGenerator.Abi;

/// <summary>Compares committed C# with C# generated now.</summary>
internal static class SourceComparison
{
    /// <summary>Differences between declarations, each naming what differs.</summary>
    public static IEnumerable<string> Compare(CommittedBindings committed, CommittedBindings current)
    {
        return
        [
            .. CompareTexts("function", committed.Functions, current.Functions),
            .. CompareTexts("constant", committed.Constants, current.Constants),
            .. CompareTexts("enum", FlattenEnums(committed), FlattenEnums(current)),
            .. CompareTexts("enum constant", FlattenValues(committed), FlattenValues(current)),
            .. CompareTexts("struct", FlattenStructs(committed), FlattenStructs(current)),
        ];
    }

    /// <summary>The first line where two texts differ, as <c>line: got …, expected …</c>; null if they are equal.</summary>
    public static string? FindFirstDifference(string committed, string current)
    {
        if (committed == current)
        {
            return null;
        }

        string[] got = committed.Split('\n');
        string[] expected = current.Split('\n');
        int line = 0;
        while (line < got.Length && line < expected.Length && got[line] == expected[line])
        {
            line++;
        }

        return $"{line + 1}: expected '{At(expected, line)}', got '{At(got, line)}'";
    }

    private static string At(string[] lines, int index) => index < lines.Length ? lines[index].Trim() : "end of file";

    private static Dictionary<string, string> FlattenEnums(CommittedBindings bindings) => bindings.Enums.ToDictionary(e => e.Key, e => e.Value.Underlying);

    private static Dictionary<string, string> FlattenValues(CommittedBindings bindings) =>
        bindings.Enums
            .SelectMany(e => e.Value.Values.Select(value => (Name: $"{e.Key}.{value.Key}", Value: value.Value.ToString(CultureInfo.InvariantCulture))))
            .ToDictionary(pair => pair.Name, pair => pair.Value);

    private static Dictionary<string, string> FlattenStructs(CommittedBindings bindings) =>
        bindings.Structs.ToDictionary(s => s.Key, s => string.Join("; ", s.Value));

    private static IEnumerable<string> CompareTexts(string kind, Dictionary<string, string> committed, Dictionary<string, string> current)
    {
        foreach ((string name, string expected) in current)
        {
            if (!committed.TryGetValue(name, out string? got))
            {
                yield return $"{kind} {name} is not declared; the header has it";
            }
            else if (got != expected)
            {
                yield return $"{kind} {name} is '{got}'; the header gives '{expected}'";
            }
        }

        foreach (string name in committed.Keys.Where(name => !current.ContainsKey(name)))
        {
            yield return $"{kind} {name} is declared; the header has none";
        }
    }
}
