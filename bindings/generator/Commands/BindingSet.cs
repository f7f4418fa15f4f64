using FlashAttention.BindingGenerator.Abi;
using FlashAttention.BindingGenerator.Clang;
using FlashAttention.BindingGenerator.Emit;
using FlashAttention.BindingGenerator.Model;

namespace FlashAttention.BindingGenerator.Commands;

/// <summary>Everything that follows from the headers, in memory.</summary>
internal sealed class BindingSet
{
    /// <summary>Suffix of generated files; no other file of the output folder is touched or looked at.</summary>
    public const string FilePattern = "*.g.cs";

    private BindingSet(HeaderSet headers, CApi api, string output, string baselinePath, string? pythonPath)
    {
        Headers = headers;
        Api = api;
        Output = output;
        BaselinePath = baselinePath;
        PythonPath = pythonPath;
        EmitOptions emit = new(headers.Display(headers.Header));
        Files = CSharpEmitter.Emit(api, emit);
        PythonText = PythonEmitter.Emit(api, emit);
        Abi = AbiDescription.From(api);
    }

    /// <summary>The headers.</summary>
    public HeaderSet Headers { get; }

    /// <summary>What they declare.</summary>
    public CApi Api { get; }

    /// <summary>Folder of the generated C#.</summary>
    public string Output { get; }

    /// <summary>File of the recorded interface.</summary>
    public string BaselinePath { get; }

    /// <summary>Names and contents of the generated files.</summary>
    public IReadOnlyList<KeyValuePair<string, string>> Files { get; }

    /// <summary>File of the generated ctypes declarations; null if none is wanted.</summary>
    public string? PythonPath { get; }

    /// <summary>The ctypes declarations.</summary>
    public string PythonText { get; }

    /// <summary>The binary interface.</summary>
    public AbiDescription Abi { get; }

    /// <summary>Parses the headers and generates in memory.</summary>
    public static BindingSet Create(CommandOptions options)
    {
        Lazy<RepositoryPaths> repository = new(RepositoryPaths.Find);
        HeaderSet headers = new(options.Header ?? repository.Value.Header, options.IncludeFolder);
        CApi api = HeaderParser.Parse(headers, options.Clang);
        if (api.Functions.Count == 0)
        {
            throw new GeneratorException($"header: '{headers.Header}' declares no function below '{headers.IncludeFolder}'");
        }

        return new BindingSet(headers, api, options.Output ?? repository.Value.Output, options.Baseline ?? repository.Value.Baseline,
            options.Python ?? (options.Header is null ? repository.Value.Python : null));
    }

    /// <summary>The recorded interface; null if there is no record.</summary>
    public AbiDescription? ReadBaseline() => File.Exists(BaselinePath) ? AbiTextReader.Read(File.ReadAllText(BaselinePath), BaselinePath) : null;

    /// <summary>Files of the output folder that this interface does not have.</summary>
    public IEnumerable<string> FindStaleFiles() =>
        Directory.Exists(Output)
            ? Directory.GetFiles(Output, FilePattern).Where(path => Files.All(file => file.Key != Path.GetFileName(path))).Order(StringComparer.Ordinal)
            : [];
}
