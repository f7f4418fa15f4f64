namespace FlashAttention.BindingGenerator.Model;

/// <summary>Everything the headers declare, in declaration order.</summary>
internal sealed record CApi(
    IReadOnlyList<CConstant> Constants,
    IReadOnlyList<CHandle> Handles,
    IReadOnlyList<CAlias> Aliases,
    IReadOnlyList<CEnum> Enums,
    IReadOnlyList<CStruct> Structs,
    IReadOnlyList<CFunction> Functions)
{
    /// <summary>The value of an integer constant, or null if the headers do not define it.</summary>
    public string? FindConstant(string name) => Constants.FirstOrDefault(constant => constant.Name == name)?.Value;
}

/// <summary>Documentation of a declaration: paragraphs of plain text, and one text per documented parameter.</summary>
internal sealed record CDocumentation(IReadOnlyList<string> Paragraphs, IReadOnlyList<KeyValuePair<string, string>> Parameters)
{
    /// <summary>No documentation.</summary>
    public static readonly CDocumentation Empty = new([], []);
}

/// <summary>An object-like macro with an integer or string literal.</summary>
/// <param name="Name">Name of the macro.</param>
/// <param name="Value">The literal as C# spells it.</param>
/// <param name="CSharpType">int, uint, long, ulong or string.</param>
/// <param name="Documentation">From the comment above the definition.</param>
/// <param name="Location">Where it is defined.</param>
internal sealed record CConstant(string Name, string Value, string CSharpType, CDocumentation Documentation, SourceLocation Location);

/// <summary>A typedef of an opaque pointer: <c>void*</c> or a pointer to a struct that no header completes.</summary>
internal sealed record CHandle(string Name, string Underlying, CDocumentation Documentation, SourceLocation Location);

/// <summary>A typedef of a scalar that no enum belongs to.</summary>
internal sealed record CAlias(string Name, CType Target, SourceLocation Location);

/// <summary>An integer typedef joined with the enum that lists its values.</summary>
/// <param name="Name">Name of the typedef, which is the type's name in signatures.</param>
/// <param name="Underlying">Integer type of the typedef.</param>
/// <param name="EnumTag">Tag of the enum with the constants.</param>
/// <param name="Members">Constants in declaration order.</param>
/// <param name="Documentation">From the typedef, or from the enum.</param>
/// <param name="Location">Where the typedef is.</param>
internal sealed record CEnum(
    string Name, CType Underlying, string EnumTag, IReadOnlyList<CEnumMember> Members, CDocumentation Documentation, SourceLocation Location);

/// <summary>A constant of an enum.</summary>
internal sealed record CEnumMember(string Name, long Value, CDocumentation Documentation);

/// <summary>A struct with a complete definition.</summary>
internal sealed record CStruct(string Name, IReadOnlyList<CField> Fields, CDocumentation Documentation, SourceLocation Location);

/// <summary>A field of a struct.</summary>
internal sealed record CField(string Name, CType Type, CDocumentation Documentation, SourceLocation Location);

/// <summary>A function.</summary>
internal sealed record CFunction(
    string Name, CType ReturnType, IReadOnlyList<CParameter> Parameters, CDocumentation Documentation, SourceLocation Location)
{
    /// <summary>The declaration as C spells it, without attributes.</summary>
    public string Signature
    {
        get
        {
            string parameters = Parameters.Count == 0 ? "void" : string.Join(", ", Parameters.Select(p => $"{p.Type.Spelling} {p.Name}"));
            return $"{ReturnType.Spelling} {Name}({parameters})";
        }
    }
}

/// <summary>A parameter of a function.</summary>
internal sealed record CParameter(string Name, CType Type);
