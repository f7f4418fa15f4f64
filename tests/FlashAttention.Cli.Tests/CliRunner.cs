using System.Text.Json;
using FlashAttention.Cli.Output;

namespace FlashAttention.Cli.Tests;

/// <summary>What a command line printed and how it ended.</summary>
internal sealed record CliResult(ExitCode Code, string Out, string Error)
{
    public JsonElement Json()
    {
        Assert.That(Code, Is.EqualTo(ExitCode.Ok), Error);
        using JsonDocument document = JsonDocument.Parse(Out);
        return document.RootElement.Clone();
    }
}

/// <summary>Runs command lines inside the test process.</summary>
internal static class CliRunner
{
    public static CliResult Run(params string[] arguments)
    {
        using StringWriter output = new(), error = new();
        ExitCode code = CommandLineApp.Run(arguments, CliConsole.To(output, error), CancellationToken.None);
        return new CliResult(code, output.ToString(), error.ToString());
    }

    /// <summary>Runs a command line written as one text; words are separated by single spaces.</summary>
    public static CliResult RunLine(string line) => Run(line.Split(' ', StringSplitOptions.RemoveEmptyEntries));
}

/// <summary>A folder that is gone after the test.</summary>
internal sealed class TemporaryFolder : IDisposable
{
    public string Path { get; } = Directory.CreateTempSubdirectory("flashattn-test-").FullName;

    public string this[string name] => System.IO.Path.Combine(Path, name);

    public string[] Files => [.. Directory.GetFiles(Path).Select(file => System.IO.Path.GetFileName(file)).Order(StringComparer.Ordinal)];

    public void Dispose() => Directory.Delete(Path, recursive: true);
}
