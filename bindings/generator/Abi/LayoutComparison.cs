using System.Globalization;
using FlashAttention.BindingGenerator.Model;

namespace FlashAttention.BindingGenerator.Abi;

/// <summary>Compares what the C compiler computed with what C# declares and with what is recorded.</summary>
internal static class LayoutComparison
{
    /// <summary>The C compiler against C# source.</summary>
    public static IEnumerable<string> Compare(ProbedValues probed, CommittedBindings csharp)
    {
        foreach ((string name, (int size, int alignment)) in probed.Structs)
        {
            if (csharp.Layout(name) is not { } layout)
            {
                yield return $"layout: struct {name} has no readable C# declaration";
                continue;
            }

            if (layout.Size != size || layout.Alignment != alignment)
            {
                yield return $"layout: struct {name} has {layout.Size} bytes aligned to {layout.Alignment} in C#, {size} bytes aligned to {alignment} in C";
            }
        }

        foreach (((string owner, string name), ProbedField field) in probed.Fields)
        {
            if (csharp.Layout(owner) is { } layout && CompareField(owner, name, field, layout, csharp) is { } problem)
            {
                yield return problem;
            }
        }

        foreach ((string name, (int size, char kind)) in probed.Enums)
        {
            bool isDeclared = csharp.Enums.TryGetValue(name, out CSharpEnum? e);
            if (!isDeclared || csharp.Measure(e!.Underlying) is not { } measured || (measured.Size, measured.Kind) != (size, kind))
            {
                yield return $"layout: enum {name} is {e?.Underlying ?? "absent"} in C#, {size} bytes, {(kind == 'i' ? "signed" : "unsigned")} in C";
            }
        }

        foreach (string problem in CompareValues(probed, csharp))
        {
            yield return problem;
        }
    }

    /// <summary>The C compiler against the recorded layouts.</summary>
    public static IEnumerable<string> CompareRecord(ProbedValues probed, AbiDescription abi)
    {
        foreach (StructLayout layout in abi.Structs)
        {
            (int size, int alignment) = probed.Structs[layout.Name];
            if ((size, alignment) != (layout.Size, layout.Alignment))
            {
                yield return $"layout: struct {layout.Name} was computed as {layout.Size} bytes aligned to {layout.Alignment}, "
                    + $"the C compiler says {size} aligned to {alignment}";
            }

            foreach (FieldLayout field in layout.Fields)
            {
                ProbedField actual = probed.Fields[(layout.Name, field.Name)];
                if ((actual.Offset, actual.Size) != (field.Offset, field.Size))
                {
                    yield return $"layout: field {layout.Name}.{field.Name} was computed at offset {field.Offset} ({field.Size} bytes), "
                        + $"the C compiler says {actual.Offset} ({actual.Size} bytes)";
                }
            }
        }
    }

    private static string? CompareField(string owner, string name, ProbedField field, StructLayout layout, CommittedBindings csharp)
    {
        FieldLayout? declared = layout.Fields.FirstOrDefault(candidate => candidate.Name == name);
        if (declared is null)
        {
            return $"layout: field {owner}.{name} is absent in C#";
        }

        if (declared.Offset != field.Offset || declared.Size != field.Size)
        {
            return $"layout: field {owner}.{name} is at offset {declared.Offset} ({declared.Size} bytes) in C#, {field.Offset} ({field.Size} bytes) in C";
        }

        char kind = csharp.Measure(declared.Type)!.Value.Kind;
        bool agrees = kind == field.Kind || (kind == 'p' && field.Kind is 'o' or 'i' or 'u');
        return agrees ? null : $"layout: field {owner}.{name} is '{declared.Type}' in C#, {DescribeKind(field.Kind)} of {field.Size} bytes in C";
    }

    private static IEnumerable<string> CompareValues(ProbedValues probed, CommittedBindings csharp)
    {
        Dictionary<string, long> declared = csharp.Enums.Values.SelectMany(e => e.Values).ToDictionary(value => value.Key, value => value.Value);
        foreach ((string name, string literal) in csharp.Constants)
        {
            if (ParseLiteral(literal) is long value)
            {
                declared[name] = value;
            }
        }

        foreach ((string name, long value) in probed.Values)
        {
            if (!declared.TryGetValue(name, out long csharpValue))
            {
                yield return $"value: {name} is absent in C#, {value} in C";
            }
            else if (csharpValue != value)
            {
                yield return $"value: {name} is {csharpValue} in C#, {value} in C";
            }
        }
    }

    /// <summary>The value of a C# integer literal, unsigned 64-bit ones as the equal bits; null for text.</summary>
    private static long? ParseLiteral(string literal)
    {
        string digits = literal.TrimStart('-').TrimEnd('U', 'L');
        bool parsed = digits.StartsWith("0x", StringComparison.Ordinal)
            ? ulong.TryParse(digits[2..], NumberStyles.HexNumber, CultureInfo.InvariantCulture, out ulong value)
            : ulong.TryParse(digits, NumberStyles.None, CultureInfo.InvariantCulture, out value);
        return !parsed ? null : literal.StartsWith('-') ? -unchecked((long)value) : unchecked((long)value);
    }

    private static string DescribeKind(char kind) => kind switch
    {
        'i' => "a signed integer",
        'u' => "an unsigned integer",
        'f' => "floating point",
        _ => "a pointer or struct",
    };
}
