using System.Globalization;
using System.Text.RegularExpressions;
using FlashAttention.BindingGenerator.Model;

namespace FlashAttention.BindingGenerator.Abi;

/// <summary>A field as C# declares it; Length is null unless it is a fixed buffer.</summary>
internal sealed record CSharpField(string Name, string Type, int? Length)
{
    /// <summary>As C# spells it.</summary>
    public override string ToString() => Length is int length ? $"fixed {Type} {Name}[{length}]" : $"{Type} {Name}";
}

/// <summary>An enum as C# declares it.</summary>
internal sealed record CSharpEnum(string Underlying, IReadOnlyDictionary<string, long> Values);

/// <summary>
/// What generated C# declares, read back from its text alone. It shares no code with the emitter on purpose: the verification compares what the compiler
/// of C says with what a reader of the C# would say, so a mistake in the mapping of types cannot hide.
/// </summary>
internal sealed partial class CommittedBindings
{
    /// <summary>Sizes of C# types in bytes, with their kind as in <see cref="ProbedField"/>; 'p' is nint or nuint, a handle or an integer.</summary>
    private static readonly Dictionary<string, (int Bytes, char Kind)> Primitives = new()
    {
        ["sbyte"] = (1, 'i'),
        ["byte"] = (1, 'u'),
        ["short"] = (2, 'i'),
        ["ushort"] = (2, 'u'),
        ["int"] = (4, 'i'),
        ["uint"] = (4, 'u'),
        ["long"] = (8, 'i'),
        ["ulong"] = (8, 'u'),
        ["float"] = (4, 'f'),
        ["double"] = (8, 'f'),
        ["nint"] = (8, 'p'),
        ["nuint"] = (8, 'p'),
    };

    private readonly Dictionary<string, (string Element, int Length)> _inlineArrays = [];

    /// <summary>Declarations of the imported functions, by name.</summary>
    public Dictionary<string, string> Functions { get; } = [];

    /// <summary>Fields of the structs, in order.</summary>
    public Dictionary<string, IReadOnlyList<CSharpField>> Structs { get; } = [];

    /// <summary>Enums by name.</summary>
    public Dictionary<string, CSharpEnum> Enums { get; } = [];

    /// <summary>Values of the constants, as spelled.</summary>
    public Dictionary<string, string> Constants { get; } = [];

    /// <summary>Reads generated source.</summary>
    /// <param name="sources">Contents of the files.</param>
    public static CommittedBindings Read(IEnumerable<string> sources)
    {
        CommittedBindings bindings = new();
        foreach (string source in sources)
        {
            string text = Comment().Replace(source.ReplaceLineEndings("\n"), string.Empty);
            foreach (Match match in Function().Matches(text))
            {
                string parameters = Whitespace().Replace(match.Groups["parameters"].Value, " ").Trim();
                bindings.Functions[match.Groups["name"].Value] = $"{match.Groups["result"].Value} {match.Groups["name"].Value}({parameters})";
            }

            foreach (Match match in Struct().Matches(text))
            {
                bindings.Structs[match.Groups["name"].Value] = [.. Field().Matches(match.Groups["body"].Value).Select(ReadField)];
            }

            foreach (Match match in InlineArray().Matches(text))
            {
                bindings._inlineArrays[match.Groups["name"].Value] = (match.Groups["element"].Value, ParseLength(match.Groups["length"])!.Value);
            }

            foreach (Match match in Enum().Matches(text))
            {
                bindings.Enums[match.Groups["name"].Value] = new CSharpEnum(
                    match.Groups["underlying"].Value,
                    EnumMember().Matches(match.Groups["body"].Value).ToDictionary(
                        member => member.Groups["name"].Value,
                        member => long.Parse(member.Groups["value"].Value, CultureInfo.InvariantCulture)));
            }

            foreach (Match match in Constant().Matches(text))
            {
                bindings.Constants[match.Groups["name"].Value] = match.Groups["value"].Value;
            }
        }

        return bindings;
    }

    /// <summary>Size, alignment and kind of a C# type in bytes under sequential layout; null if the type is unknown.</summary>
    public (int Size, int Alignment, char Kind)? Measure(string type)
    {
        if (type.EndsWith('*'))
        {
            return (TypeMapper.PointerBytes, TypeMapper.PointerBytes, 'o');
        }

        if (Primitives.TryGetValue(type, out (int Bytes, char Kind) primitive))
        {
            return (primitive.Bytes, primitive.Bytes, primitive.Kind);
        }

        if (Enums.TryGetValue(type, out CSharpEnum? e))
        {
            return Measure(e.Underlying);
        }

        if (_inlineArrays.TryGetValue(type, out (string Element, int Length) array))
        {
            return Measure(array.Element) is var (size, alignment, kind) ? (size * array.Length, alignment, kind) : null;
        }

        return Layout(type) is { } layout ? (layout.Size, layout.Alignment, 'o') : null;
    }

    /// <summary>Lays out a struct as the runtime does for blittable fields; null if it is unknown or has a field of an unknown type.</summary>
    public StructLayout? Layout(string name)
    {
        if (!Structs.TryGetValue(name, out IReadOnlyList<CSharpField>? declared))
        {
            return null;
        }

        List<FieldLayout> fields = [];
        int offset = 0;
        int structAlignment = 1;
        foreach (CSharpField field in declared)
        {
            if (Measure(field.Type) is not var (elementSize, alignment, _))
            {
                return null;
            }

            int size = elementSize * (field.Length ?? 1);
            offset = StructLayout.RoundUp(offset, alignment);
            fields.Add(new FieldLayout(field.Name, field.Type, offset, size));
            offset += size;
            structAlignment = Math.Max(structAlignment, alignment);
        }

        return new StructLayout(name, StructLayout.RoundUp(offset, structAlignment), structAlignment, fields);
    }

    private static CSharpField ReadField(Match field) =>
        new(field.Groups["name"].Value, field.Groups["type"].Value, ParseLength(field.Groups["length"]));

    private static int? ParseLength(Group group) => group.Success ? int.Parse(group.Value, CultureInfo.InvariantCulture) : null;

    [GeneratedRegex(@"^\s*//.*\n", RegexOptions.Multiline)]
    private static partial Regex Comment();

    [GeneratedRegex(@"\s+")]
    private static partial Regex Whitespace();

    [GeneratedRegex(@"\[LibraryImport\(LibraryName\)\]\s+internal static partial (?<result>[\w*]+) (?<name>\w+)\((?<parameters>[^)]*)\);")]
    private static partial Regex Function();

    [GeneratedRegex(@"\[StructLayout\(LayoutKind\.Sequential\)\]\ninternal unsafe struct (?<name>\w+)\n\{\n(?<body>.*?)\n\}", RegexOptions.Singleline)]
    private static partial Regex Struct();

    [GeneratedRegex(@"\w+ (?:fixed )?(?<type>[\w*]+) @?(?<name>\w+)(?:\[(?<length>\d+)\])?;")]
    private static partial Regex Field();

    [GeneratedRegex(@"\[InlineArray\((?<length>\d+)\)\]\ninternal struct (?<name>\w+)\n\{\n\s*private (?<element>[\w*]+) \w+;\n\}")]
    private static partial Regex InlineArray();

    [GeneratedRegex(@"internal enum (?<name>\w+) : (?<underlying>\w+)\n\{\n(?<body>.*?)\n\}", RegexOptions.Singleline)]
    private static partial Regex Enum();

    [GeneratedRegex(@"(?<name>\w+) = (?<value>-?\d+),")]
    private static partial Regex EnumMember();

    [GeneratedRegex(@"internal const \w+ (?<name>\w+) = (?<value>.+);")]
    private static partial Regex Constant();
}
