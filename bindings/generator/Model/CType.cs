using System.Text.RegularExpressions;

namespace FlashAttention.BindingGenerator.Model;

/// <summary>A type of the C subset that an ABI header may use: a named type, pointers to it, or a one-dimensional array of either.</summary>
/// <param name="Name">Type at the bottom, without qualifiers: <c>int32_t</c>, <c>fa_tensor</c>, <c>struct fa_event_object</c>, <c>void</c>.</param>
/// <param name="Pointers">Levels of indirection.</param>
/// <param name="ArrayLength">Number of elements, or null if it is no array.</param>
/// <param name="Spelling">As C spells it, without the array bound, e.g. <c>const float*</c>.</param>
internal sealed partial record CType(string Name, int Pointers, int? ArrayLength, string Spelling)
{
    /// <summary>The array's element type; the type itself if it is no array.</summary>
    public CType Element => this with { ArrayLength = null };

    /// <summary>True for <c>void</c> itself.</summary>
    public bool IsVoid => Name == "void" && Pointers == 0;

    /// <summary>As C spells it, with the array bound.</summary>
    public override string ToString() => ArrayLength is int length ? $"{Spelling}[{length}]" : Spelling;

    /// <summary>Reads a type as clang prints it.</summary>
    /// <param name="text">E.g. <c>const fa_forward_params *</c> or <c>int64_t[4]</c>.</param>
    /// <param name="location">For messages.</param>
    /// <param name="subject">What has this type, for messages.</param>
    /// <exception cref="GeneratorException">The type is outside the subset.</exception>
    public static CType Parse(string text, SourceLocation location, string subject)
    {
        if (text.Contains('(', StringComparison.Ordinal))
        {
            throw new GeneratorException(
                location, $"{subject} has the type '{text}': function pointers are not supported; expected a named type or a pointer to data");
        }

        string rest = text.Trim();
        int? arrayLength = null;
        int bracket = rest.IndexOf('[', StringComparison.Ordinal);
        if (bracket >= 0)
        {
            Match bound = ArrayBound().Match(rest[bracket..]);
            if (!bound.Success || !int.TryParse(bound.Groups[1].Value, out int length) || length == 0)
            {
                throw new GeneratorException(location, $"{subject} has the type '{text}': expected one array bound, a number above 0");
            }

            arrayLength = length;
            rest = rest[..bracket].TrimEnd();
        }

        List<string> tokens = [.. Token().Matches(rest).Select(match => match.Value)];
        foreach (string qualifier in (string[])["volatile", "_Atomic"])
        {
            if (tokens.Contains(qualifier))
            {
                throw new GeneratorException(location, $"{subject} has the type '{text}': '{qualifier}' is not supported");
            }
        }

        int pointers = tokens.Count(token => token == "*");
        string name = string.Join(' ', tokens.Where(token => token is not ("*" or "const" or "restrict" or "__restrict")));
        return new CType(name, pointers, arrayLength, Spell(tokens));
    }

    private static string Spell(IEnumerable<string> tokens)
    {
        string spelling = string.Empty;
        foreach (string token in tokens)
        {
            spelling += token == "*" || spelling.Length == 0 ? token : " " + token;
        }

        return spelling;
    }

    [GeneratedRegex(@"^\[(\d+)\]$")]
    private static partial Regex ArrayBound();

    [GeneratedRegex(@"\*|\w+")]
    private static partial Regex Token();
}
