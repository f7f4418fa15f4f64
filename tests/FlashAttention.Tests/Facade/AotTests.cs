using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace FlashAttention.Tests;

/// <summary>The facade is clean of reflection: a sample published as native code, and one trimmed to what it uses, compute the right results.</summary>
[TestFixture]
[Category("Slow")]
public sealed class AotTests
{
    [Test]
    public void ASamplePublishedAsNativeCodeRuns()
    {
        string? linker = new[] { "clang", "gcc" }.FirstOrDefault(IsOnPath);
        if (linker is null)
        {
            Assert.Ignore("NativeAOT needs clang or gcc to link; neither is on the PATH.");
        }
        Publish($"-p:CppCompilerAndLinker={linker}");
    }

    [Test]
    public void ATrimmedSampleRuns() => Publish("-p:PublishAot=false", "-p:PublishTrimmed=true", "--self-contained");

    private static void Publish(params string[] properties)
    {
        string project = Path.Combine(RepositoryRoot(), "tests", "AotSample", "AotSample.csproj");
        string library = FlashAttentionNative.Trace()[^1].Path;
        if (!IsOnPath("dotnet") || !File.Exists(project))
        {
            Assert.Ignore("Publishing needs the .NET SDK and the repository.");
        }
        string folder = Directory.CreateTempSubdirectory("fa-aot-").FullName;
        try
        {
            string output = Path.Combine(folder, "out");
            string[] arguments =
            [
                "publish", project, "-c", "Release", "-r", RuntimeInformation.RuntimeIdentifier, "-o", output,
                "--artifacts-path", Path.Combine(folder, "artifacts"), .. properties,
            ];
            ChildProcess.Result publish = ChildProcess.Run("dotnet", arguments, new Dictionary<string, string?>(), TimeSpan.FromMinutes(10));
            if (publish.ExitCode != 0 && publish.Output.Contains("error NU1"))
            {
                Assert.Ignore("The publish packages could not be restored: " + publish.Output);
            }
            Assert.That(publish.ExitCode, Is.Zero, publish.Output);
            Assert.That(publish.Output, Does.Not.Contain("warning IL"));
            string program = Path.Combine(output, OperatingSystem.IsWindows() ? "AotSample.exe" : "AotSample");
            ChildProcess.Result run = ChildProcess.Run(
                program, [], new Dictionary<string, string?> { ["FLASH_ATTENTION_LIBRARY"] = library }, TimeSpan.FromMinutes(2));
            TestContext.Out.WriteLine($"{new FileInfo(program).Length} bytes; {run.Output}");
            Assert.That(run.ExitCode, Is.Zero, run.Output);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static bool IsOnPath(string program) =>
        (Environment.GetEnvironmentVariable("PATH") ?? "").Split(Path.PathSeparator)
            .Any(folder => File.Exists(Path.Combine(folder, program)) || File.Exists(Path.Combine(folder, program + ".exe")));

    private static string RepositoryRoot([CallerFilePath] string file = "") => Path.GetFullPath(Path.Combine(Path.GetDirectoryName(file)!, "..", "..", ".."));
}
