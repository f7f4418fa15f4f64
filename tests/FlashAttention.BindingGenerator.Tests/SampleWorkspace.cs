using System.Reflection;
using FlashAttention.BindingGenerator.Clang;
using FlashAttention.BindingGenerator.Emit;
using FlashAttention.BindingGenerator.Model;

namespace FlashAttention.BindingGenerator.Tests;

/// <summary>A temporary folder with a header of the test's own, and the program run on it.</summary>
internal sealed class SampleWorkspace : IDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("binding-generator-tests-");

    /// <summary>Creates <c>include/sample/sample.h</c>.</summary>
    public SampleWorkspace(string header)
    {
        Directory.CreateDirectory(Path.Combine(_folder.FullName, "include", "sample"));
        WriteHeader(header);
    }

    /// <summary>Root of the repository the tests were built from.</summary>
    public static string RepositoryRoot { get; } =
        typeof(SampleWorkspace).Assembly.GetCustomAttributes<AssemblyMetadataAttribute>().Single(attribute => attribute.Key == "RepositoryRoot").Value!;

    public string Header => Path.Combine(_folder.FullName, "include", "sample", "sample.h");

    public string Output => Path.Combine(_folder.FullName, "generated");

    public string Baseline => Path.Combine(_folder.FullName, "abi-baseline.txt");

    /// <summary>Parses and emits in memory.</summary>
    /// <returns>The generated file of that name, without the comment at its top.</returns>
    public static string Emit(string header, string file)
    {
        using SampleWorkspace workspace = new(header);
        string text = CSharpEmitter.Emit(workspace.Parse(), new EmitOptions("sample/sample.h")).Single(pair => pair.Key == file).Value;
        return text[(text.IndexOf("#nullable enable\n\n", StringComparison.Ordinal) + "#nullable enable\n\n".Length)..];
    }

    public CApi Parse() => HeaderParser.Parse(new HeaderSet(Header));

    public string PathOf(string name) => Path.Combine(_folder.FullName, name);

    public void WriteHeader(string text) => File.WriteAllText(Header, text.ReplaceLineEndings("\n"));

    public void EditHeader(string from, string to) => Edit(Header, from, to);

    public void EditGenerated(string file, string from, string to) => Edit(Path.Combine(Output, file), from, to);

    public void EditBaseline(string from, string to) => Edit(Baseline, from, to);

    public (int ExitCode, string Output) Generate(params string[] arguments) => Run(["generate", .. arguments]);

    public (int ExitCode, string Output) Verify(params string[] arguments) => Run(["verify", .. arguments]);

    /// <summary>Compiles C source to a shared library.</summary>
    public string CompileLibrary(string source)
    {
        string file = PathOf("library.c");
        string library = PathOf("library.so");
        File.WriteAllText(file, source);
        string[] positionIndependent = OperatingSystem.IsWindows() ? [] : ["-fPIC"];
        ProcessRunner.Run(ProcessRunner.FindTool(null, "CC", ["cc", "gcc", "clang"]), ["-shared", .. positionIndependent, file, "-o", library]);
        return library;
    }

    public void Dispose() => _folder.Delete(recursive: true);

    private (int ExitCode, string Output) Run(IEnumerable<string> arguments)
    {
        using StringWriter output = new();
        int exitCode = Program.Run([.. arguments, "--header", Header, "--output", Output, "--baseline", Baseline], output, output);
        return (exitCode, output.ToString().ReplaceLineEndings("\n"));
    }

    private static void Edit(string path, string from, string to)
    {
        string text = File.ReadAllText(path);
        if (!text.Contains(from, StringComparison.Ordinal))
        {
            throw new ArgumentException($"'{path}' does not contain '{from}'", nameof(from));
        }

        File.WriteAllText(path, text.Replace(from, to, StringComparison.Ordinal));
    }
}
