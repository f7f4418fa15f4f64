using FlashAttention.BindingGenerator.Abi;
using FlashAttention.BindingGenerator.Model;

namespace FlashAttention.BindingGenerator.Commands;

/// <summary>Writes the generated C# and the record of the binary interface.</summary>
internal static class GenerateCommand
{
    private const string AbiVersionConstant = "FA_ABI_VERSION";

    /// <summary>Runs the command.</summary>
    /// <returns>Exit code: 0, or 1 if the change was refused; then nothing was written.</returns>
    public static int Run(GenerateOptions options, TextWriter output)
    {
        BindingSet bindings = BindingSet.Create(options);
        IReadOnlyList<AbiChange> changes = bindings.ReadBaseline() is { } recorded ? AbiComparison.Compare(recorded, bindings.Abi) : [];
        foreach (AbiChange change in changes)
        {
            output.WriteLine(change);
        }

        if (changes.Any(change => change.IsBreaking))
        {
            if (!options.AcceptAbiChange)
            {
                output.WriteLine("Nothing was written: callers of the recorded interface would break. If that is meant, add --accept-abi-change.");
                return 1;
            }

            if (!changes.Any(change => change.Message.StartsWith($"constant {AbiVersionConstant} ", StringComparison.Ordinal)))
            {
                string version = bindings.Api.FindConstant(AbiVersionConstant) ?? "undefined";
                output.WriteLine($"{AbiVersionConstant} is still {version}; raise it unless the recorded interface was never released.");
            }
        }

        Directory.CreateDirectory(bindings.Output);
        foreach ((string name, string text) in bindings.Files)
        {
            WriteIfChanged(Path.Combine(bindings.Output, name), text, output);
        }

        foreach (string stale in bindings.FindStaleFiles())
        {
            File.Delete(stale);
            output.WriteLine($"removed {stale}");
        }

        if (bindings.PythonPath is not null)
        {
            WriteIfChanged(bindings.PythonPath, bindings.PythonText, output);
        }

        WriteIfChanged(bindings.BaselinePath, bindings.Abi.ToText(), output);
        CApi api = bindings.Api;
        output.WriteLine($"{api.Functions.Count} functions, {api.Structs.Count} structs, {api.Enums.Count} enums, {api.Constants.Count} constants");
        return 0;
    }

    private static void WriteIfChanged(string path, string text, TextWriter output)
    {
        if (!File.Exists(path) || File.ReadAllText(path) != text)
        {
            File.WriteAllText(path, text);
            output.WriteLine($"wrote {path}");
        }
    }
}
