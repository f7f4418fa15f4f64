using FlashAttention.BindingGenerator.Abi;

namespace FlashAttention.BindingGenerator.Commands;

/// <summary>Compares the headers with everything that must agree with them.</summary>
internal static class VerifyCommand
{
    /// <summary>Exported names that start so belong to the interface; others are the business of the libraries linked in.</summary>
    private const string SymbolPrefix = "fa_";

    /// <summary>Runs the command.</summary>
    /// <returns>Exit code: 0, or 1 with a list of what differs.</returns>
    public static int Run(VerifyOptions options, TextWriter output)
    {
        BindingSet bindings = BindingSet.Create(options);
        List<string> problems =
            [.. CompareSource(bindings), .. ComparePython(bindings), .. CompareBaseline(bindings), .. CompareCompiler(bindings, options.Compiler)];
        if (options.Library is not null)
        {
            problems.AddRange(CompareLibrary(bindings, options.Library));
        }

        foreach (string problem in problems)
        {
            output.WriteLine(problem);
        }

        string library = options.Library is null ? "; exports not compared (--library names the native library)" : string.Empty;
        output.WriteLine(problems.Count == 0
            ? $"header, C#, recorded interface and C compiler agree: {bindings.Api.Functions.Count} functions, {bindings.Api.Structs.Count} structs{library}"
            : $"{problems.Count} difference{(problems.Count == 1 ? string.Empty : "s")}{library}");
        return problems.Count == 0 ? 0 : 1;
    }

    /// <summary>Committed C# against C# generated now: declarations by name first, then the text.</summary>
    public static IEnumerable<string> CompareSource(BindingSet bindings)
    {
        Dictionary<string, string> committedFiles = [];
        foreach ((string name, _) in bindings.Files)
        {
            string path = Path.Combine(bindings.Output, name);
            if (File.Exists(path))
            {
                committedFiles[name] = File.ReadAllText(path).ReplaceLineEndings("\n");
            }
            else
            {
                yield return $"C#: {name} is missing; run generate";
            }
        }

        foreach (string stale in bindings.FindStaleFiles())
        {
            yield return $"C#: {Path.GetFileName(stale)} is no generated file of this interface; run generate";
        }

        CommittedBindings committed = CommittedBindings.Read(committedFiles.Values);
        CommittedBindings current = CommittedBindings.Read(bindings.Files.Select(file => file.Value));
        List<string> differences = [.. SourceComparison.Compare(committed, current)];
        foreach (string difference in differences)
        {
            yield return $"C#: {difference}; run generate";
        }

        if (differences.Count == 0)
        {
            foreach ((string name, string text) in bindings.Files)
            {
                if (committedFiles.TryGetValue(name, out string? committedText) && SourceComparison.FindFirstDifference(committedText, text) is { } difference)
                {
                    yield return $"C#: {name}:{difference}; run generate";
                }
            }
        }
    }

    /// <summary>Committed ctypes declarations against those generated now.</summary>
    public static IEnumerable<string> ComparePython(BindingSet bindings)
    {
        if (bindings.PythonPath is null)
        {
            return [];
        }

        if (!File.Exists(bindings.PythonPath))
        {
            return [$"Python: '{bindings.PythonPath}' is missing; run generate"];
        }

        string committed = File.ReadAllText(bindings.PythonPath).ReplaceLineEndings("\n");
        return SourceComparison.FindFirstDifference(committed, bindings.PythonText) is { } difference
            ? [$"Python: {Path.GetFileName(bindings.PythonPath)}:{difference}; run generate"]
            : [];
    }

    /// <summary>The recorded interface against the headers.</summary>
    public static IEnumerable<string> CompareBaseline(BindingSet bindings)
    {
        if (bindings.ReadBaseline() is not { } recorded)
        {
            return [$"recorded interface: '{bindings.BaselinePath}' is missing; run generate"];
        }

        IReadOnlyList<AbiChange> changes = AbiComparison.Compare(recorded, bindings.Abi);
        if (changes.Count > 0)
        {
            return changes.Select(change => $"recorded interface: {change}");
        }

        string committed = File.ReadAllText(bindings.BaselinePath).ReplaceLineEndings("\n");
        return SourceComparison.FindFirstDifference(committed, bindings.Abi.ToText()) is { } difference
            ? [$"recorded interface: {Path.GetFileName(bindings.BaselinePath)}:{difference}; run generate"]
            : [];
    }

    /// <summary>What the C compiler makes of the headers against what the committed C# declares.</summary>
    public static IEnumerable<string> CompareCompiler(BindingSet bindings, string? compiler)
    {
        ProbedValues probed = CompilerProbe.Run(bindings.Api, bindings.Headers, compiler);
        IEnumerable<string> sources = Directory.Exists(bindings.Output)
            ? Directory.GetFiles(bindings.Output, BindingSet.FilePattern).Order(StringComparer.Ordinal).Select(File.ReadAllText)
            : [];
        return LayoutComparison.Compare(probed, CommittedBindings.Read(sources)).Concat(LayoutComparison.CompareRecord(probed, bindings.Abi));
    }

    /// <summary>The exports of the native library against the functions of the headers.</summary>
    public static IEnumerable<string> CompareLibrary(BindingSet bindings, string library)
    {
        HashSet<string> exports = [.. ExportTable.Read(library)];
        foreach (string missing in bindings.Api.Functions.Select(function => function.Name).Where(name => !exports.Contains(name)))
        {
            yield return $"library: function {missing} is declared in the header but not exported";
        }

        HashSet<string> declared = [.. bindings.Api.Functions.Select(function => function.Name)];
        IEnumerable<string> undeclared = exports.Where(name => name.StartsWith(SymbolPrefix, StringComparison.Ordinal) && !declared.Contains(name));
        foreach (string extra in undeclared.Order(StringComparer.Ordinal))
        {
            yield return $"library: {extra} is exported but not declared in the header";
        }
    }
}
