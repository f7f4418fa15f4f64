using System.Globalization;
using System.Text;
using FlashAttention.BindingGenerator.Model;

namespace FlashAttention.BindingGenerator.Abi;

/// <summary>An enum as callers were compiled against it.</summary>
internal sealed record EnumAbi(string Name, string Underlying, IReadOnlyList<KeyValuePair<string, long>> Values);

/// <summary>A function as callers were compiled against it: result and parameter types, no parameter names.</summary>
internal sealed record FunctionAbi(string Name, string Result, IReadOnlyList<string> Parameters)
{
    /// <summary>As C spells it.</summary>
    public override string ToString() => $"{Result} {Name}({(Parameters.Count == 0 ? "void" : string.Join(", ", Parameters))})";
}

/// <summary>
/// All that a compiled caller depends on. Its text form is kept in the repository, one fact per line, so that a change of the interface shows up as a
/// change of that file.
/// </summary>
internal sealed record AbiDescription(
    IReadOnlyList<KeyValuePair<string, string>> Constants,
    IReadOnlyList<KeyValuePair<string, string>> Handles,
    IReadOnlyList<EnumAbi> Enums,
    IReadOnlyList<StructLayout> Structs,
    IReadOnlyList<FunctionAbi> Functions)
{
    /// <summary>The product version changes with every release and means nothing to a compiled caller.</summary>
    private const string ProductVersionPrefix = "FA_VERSION_";

    /// <summary>Describes an interface.</summary>
    public static AbiDescription From(CApi api)
    {
        TypeMapper types = new(api);
        return new AbiDescription(
            [.. api.Constants.Where(c => !c.Name.StartsWith(ProductVersionPrefix, StringComparison.Ordinal)).Select(c => KeyValuePair.Create(c.Name, c.Value))],
            [.. api.Handles.Select(handle => KeyValuePair.Create(handle.Name, handle.Underlying))],
            [.. api.Enums.Select(e => new EnumAbi(e.Name, e.Underlying.ToString(), [.. e.Members.Select(m => KeyValuePair.Create(m.Name, m.Value))]))],
            [.. api.Structs.Select(s => StructLayout.Compute(s, types))],
            [.. api.Functions.Select(f => new FunctionAbi(f.Name, f.ReturnType.ToString(), [.. f.Parameters.Select(p => p.Type.ToString())]))]);
    }

    /// <summary>The text form, with LF line ends.</summary>
    public string ToText()
    {
        StringBuilder text = new();
        text.Append("# The binary interface that callers were compiled against, 64-bit. Offsets and sizes in bytes.\n");
        text.Append("# Written by bindings/generator and checked by its verify command; see bindings/README.md for which changes are allowed.\n\n");
        foreach ((string name, string value) in Constants)
        {
            text.Append(CultureInfo.InvariantCulture, $"constant {name} {value}\n");
        }

        text.Append('\n');
        foreach ((string name, string underlying) in Handles)
        {
            text.Append(CultureInfo.InvariantCulture, $"handle {name} {underlying}\n");
        }

        foreach (EnumAbi e in Enums)
        {
            text.Append(CultureInfo.InvariantCulture, $"\nenum {e.Name} {e.Underlying}\n");
            foreach ((string name, long value) in e.Values)
            {
                text.Append(CultureInfo.InvariantCulture, $"  value {name} {value}\n");
            }
        }

        foreach (StructLayout s in Structs)
        {
            text.Append(CultureInfo.InvariantCulture, $"\nstruct {s.Name} size {s.Size} align {s.Alignment}\n");
            foreach (FieldLayout field in s.Fields)
            {
                text.Append(CultureInfo.InvariantCulture, $"  field {field.Name} offset {field.Offset} size {field.Size} type {field.Type}\n");
            }
        }

        text.Append('\n');
        foreach (FunctionAbi function in Functions)
        {
            text.Append(CultureInfo.InvariantCulture, $"function {function}\n");
        }

        return text.ToString();
    }
}
