using System.Runtime.InteropServices;

namespace FlashAttention.Tests;

/// <summary>How the native library is found, and what is said if it is not. A process loads it once, so each case has a process of its own: this test program,
/// started again for <see cref="LoaderProbe"/> alone.</summary>
[TestFixture]
public sealed class LoaderTests
{
    private string folder = "";

    [SetUp]
    public void MakeFolder() => folder = Directory.CreateTempSubdirectory("fa-loader-").FullName;

    [TearDown]
    public void RemoveFolder() => Directory.Delete(folder, recursive: true);

    [Test]
    public void AMissingLibraryIsNamed()
    {
        string path = Path.Combine(folder, "absent.so");
        string report = Probe(AppContext.BaseDirectory, path);
        Assert.That(report, Does.Contain("LibraryUnavailable").And.Contain(path).And.Contain("no such file").And.Contain("FLASH_ATTENTION_LIBRARY"));
    }

    [Test]
    public void AFileThatIsNoLibraryIsNamedWithTheSystemsWords()
    {
        string path = Path.Combine(folder, FlashAttentionNative.LibraryFileName);
        File.WriteAllText(path, "this is no library");
        string report = Probe(AppContext.BaseDirectory, folder);
        Assert.That(report, Does.Contain("LibraryUnavailable").And.Contain(path).And.Contain("LoadFailed"));
    }

    [Test]
    public void AnotherLibraryIsRefused()
    {
        string other = Path.Combine(RuntimeEnvironment.GetRuntimeDirectory(), "libSystem.Native.so");
        Assume.That(File.Exists(other), $"{other} stands in for a foreign library");
        string report = Probe(AppContext.BaseDirectory, other);
        Assert.That(report, Does.Contain("IncompatibleInterface").And.Contain("fa_abi_version"));
    }

    /// <summary>Without a path, every place that was searched is listed: a copy of this program without the native library beside it.</summary>
    [Test]
    public void EveryPathTriedIsListed()
    {
        foreach (string file in Directory.EnumerateFiles(AppContext.BaseDirectory).Where(file => !Path.GetFileName(file).Contains("flash_attention")))
        {
            File.Copy(file, Path.Combine(folder, Path.GetFileName(file)));
        }
        string report = Probe(folder, library: null);
        string name = FlashAttentionNative.LibraryFileName;
        Assert.That(report, Does.Contain("LibraryUnavailable").And.Contain(Path.Combine(folder, name)).And.Contain(Path.Combine("native", name))
            .And.Contain("OperatingSystem"));
    }

    [Test]
    public void TheLoadedLibraryIsTraced()
    {
        Assert.Multiple(() =>
        {
            Assert.That(FlashAttentionNative.AbiVersion, Is.EqualTo(FlashAttentionNative.ExpectedAbiVersion));
            Assert.That(FlashAttentionNative.Trace()[^1].Outcome, Is.EqualTo(NativeLoadOutcome.Loaded));
            Assert.That(FlashAttentionNative.Version, Does.Match(@"^\d+\.\d+\.\d+$"));
            Assert.That(FlashAttentionNative.BuildInfo, Is.Not.Empty);
            Assert.That(() => FlashAttentionNative.LibraryPath = "/elsewhere", Throws.InvalidOperationException);
        });
    }

    private static string Probe(string programFolder, string? library)
    {
        string result = Path.GetTempFileName();
        string dll = Path.Combine(programFolder, "FlashAttention.Tests.dll");
        string host = Path.Combine(programFolder, OperatingSystem.IsWindows() ? "FlashAttention.Tests.exe" : "FlashAttention.Tests");
        bool hasHost = File.Exists(host);
        string[] filter = ["--filter", $"FullyQualifiedName~{nameof(LoaderProbe)}"];
        try
        {
            ChildProcess.Result run = ChildProcess.Run(
                hasHost ? host : "dotnet",
                hasHost ? filter : [dll, .. filter],
                new Dictionary<string, string?> { ["FLASH_ATTENTION_LIBRARY"] = library, [LoaderProbe.ResultVariable] = result, ["LD_LIBRARY_PATH"] = null },
                TimeSpan.FromMinutes(2));
            string report = File.ReadAllText(result);
            Assert.That(report, Is.Not.Empty, $"the probe said nothing; its runner said: {run.Output}");
            TestContext.Out.WriteLine(report);
            return report;
        }
        finally
        {
            File.Delete(result);
        }
    }
}

/// <summary>Runs in a process of its own, for <see cref="LoaderTests"/>: loads the library and writes down what happened.</summary>
[TestFixture]
[Explicit("Started by LoaderTests in a process of its own.")]
public sealed class LoaderProbe
{
    public const string ResultVariable = "FLASH_ATTENTION_TEST_PROBE_RESULT";

    [Test]
    public void Load()
    {
        string result = Environment.GetEnvironmentVariable(ResultVariable)
            ?? throw new InvalidOperationException($"{ResultVariable}: expected a file, got nothing");
        try
        {
            File.WriteAllText(result, "loaded, version " + FlashAttentionNative.Version);
        }
        catch (FlashAttentionException e)
        {
            File.WriteAllText(result, $"{e.Status}: {e.Message}");
        }
        catch (Exception e)
        {
            File.WriteAllText(result, e.ToString());
        }
    }
}
