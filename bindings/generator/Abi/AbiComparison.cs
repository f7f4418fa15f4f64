using FlashAttention.BindingGenerator.Model;

namespace FlashAttention.BindingGenerator.Abi;

/// <summary>A difference between two interfaces.</summary>
/// <param name="IsBreaking">True if a caller compiled against the old interface may misbehave with the new one.</param>
/// <param name="Message">What changed.</param>
internal sealed record AbiChange(bool IsBreaking, string Message)
{
    /// <summary>The message with its kind in front.</summary>
    public override string ToString() => $"{(IsBreaking ? "breaking" : "additive")}: {Message}";
}

/// <summary>Compares a new interface with the recorded one and tells additions from breaks.</summary>
internal sealed class AbiComparison
{
    /// <summary>First field of a struct that may grow: the callee learns from it how much the caller knows.</summary>
    private const string SizeField = "struct_size";

    private readonly List<AbiChange> _changes = [];

    private AbiComparison()
    {
    }

    /// <summary>All differences, in the order of the old interface, additions last within each group.</summary>
    public static IReadOnlyList<AbiChange> Compare(AbiDescription old, AbiDescription current)
    {
        AbiComparison comparison = new();
        comparison.ComparePairs("constant", old.Constants, current.Constants);
        comparison.ComparePairs("handle", old.Handles, current.Handles);
        comparison.CompareNamed("enum", old.Enums, current.Enums, e => e.Name, comparison.CompareEnum);
        comparison.CompareNamed("struct", old.Structs, current.Structs, s => s.Name, (before, after) => comparison.CompareStruct(before, after, current));
        comparison.CompareNamed("function", old.Functions, current.Functions, f => f.Name, comparison.CompareFunction);
        return comparison._changes;
    }

    private void Break(string message) => _changes.Add(new AbiChange(true, message));

    private void Add(string message) => _changes.Add(new AbiChange(false, message));

    private void ComparePairs<TValue>(string kind, IReadOnlyList<KeyValuePair<string, TValue>> old, IReadOnlyList<KeyValuePair<string, TValue>> current) =>
        CompareNamed(kind, old, current, pair => pair.Key, (before, after) =>
        {
            if (!Equals(before.Value, after.Value))
            {
                Break($"{kind} {before.Key} was {before.Value} and is {after.Value}");
            }
        });

    private void CompareNamed<T>(string kind, IReadOnlyList<T> old, IReadOnlyList<T> current, Func<T, string> nameOf, Action<T, T> compare)
    {
        Dictionary<string, T> currentByName = current.ToDictionary(nameOf);
        foreach (T before in old)
        {
            if (currentByName.TryGetValue(nameOf(before), out T? after))
            {
                compare(before, after);
            }
            else
            {
                Break($"{kind} {nameOf(before)} is gone");
            }
        }

        HashSet<string> oldNames = [.. old.Select(nameOf)];
        foreach (T added in current.Where(item => !oldNames.Contains(nameOf(item))))
        {
            Add($"{kind} {nameOf(added)} is new");
        }
    }

    private void CompareEnum(EnumAbi before, EnumAbi after)
    {
        if (before.Underlying != after.Underlying)
        {
            Break($"enum {before.Name} was {before.Underlying} and is {after.Underlying}");
        }

        ComparePairs($"constant of enum {before.Name}:", before.Values, after.Values);
    }

    private void CompareFunction(FunctionAbi before, FunctionAbi after)
    {
        if (before.ToString() != after.ToString())
        {
            Break($"function {before.Name} was '{before}' and is '{after}'");
        }
    }

    private void CompareStruct(StructLayout before, StructLayout after, AbiDescription current)
    {
        int breaksBefore = _changes.Count(change => change.IsBreaking);
        for (int i = 0; i < before.Fields.Count; i++)
        {
            FieldLayout old = before.Fields[i];
            FieldLayout? now = after.Fields.FirstOrDefault(field => field.Name == old.Name);
            if (now is null)
            {
                Break($"field {before.Name}.{old.Name} is gone");
            }
            else if (now != old)
            {
                Break($"field {before.Name}.{old.Name} was {Describe(old)} and is {Describe(now)}");
            }
        }

        if (before.Alignment != after.Alignment)
        {
            Break($"struct {before.Name} had alignment {before.Alignment} and has {after.Alignment}");
        }

        HashSet<string> oldNames = [.. before.Fields.Select(field => field.Name)];
        List<FieldLayout> added = [.. after.Fields.Where(field => !oldNames.Contains(field.Name))];
        foreach (FieldLayout field in added)
        {
            ReportAddedField(before, field, current);
        }

        if (before.Size != after.Size && added.Count == 0 && breaksBefore == _changes.Count(change => change.IsBreaking))
        {
            Break($"struct {before.Name} had {before.Size} bytes and has {after.Size}");
        }
    }

    private void ReportAddedField(StructLayout before, FieldLayout field, AbiDescription current)
    {
        string what = $"field {before.Name}.{field.Name} is new at offset {field.Offset}";
        if (before.Fields[0].Name != SizeField)
        {
            Break($"{what}, but the struct does not begin with {SizeField}");
        }
        else if (field.Offset < before.Size)
        {
            Break($"{what}, inside the {before.Size} bytes that older callers pass (a struct may only grow at its end, and its tail padding counts as passed)");
        }
        else if (current.Functions.FirstOrDefault(f => f.Result == before.Name || f.Parameters.Contains(before.Name)) is { } byValue)
        {
            Break($"{what}, but function {byValue.Name} passes the struct by value");
        }
        else
        {
            Add(what);
        }
    }

    private static string Describe(FieldLayout field) => $"'{field.Type}' at offset {field.Offset} ({field.Size} bytes)";
}
