using System.Diagnostics;
using System.Globalization;

namespace FlashAttention.Cli.Tests;

/// <summary>Files written by NumPy itself, and attention computed by NumPy in float64.</summary>
internal sealed class NumPyTests
{
    private const string Make = """
        import sys, numpy as np
        r = np.random.default_rng(7)
        t = np.dtype(sys.argv[2])
        for name, shape in (('q', (2, 70, 4, 40)), ('k', (2, 90, 2, 40)), ('v', (2, 90, 2, 24))):
            a = r.standard_normal(shape).astype(t)
            np.save(f'{sys.argv[1]}/{name}.npy', np.asfortranarray(a) if sys.argv[3] == 'F' else a)
        """;

    private const string Compare = """
        import sys, numpy as np
        q, k, v, o = (np.load(f'{sys.argv[1]}/{n}.npy') for n in 'qkvo')
        lse = np.load(f'{sys.argv[1]}/lse.npy')
        assert o.dtype == q.dtype and o.shape == (2, 70, 4, 24) and lse.dtype == np.float32 and lse.shape == (2, 4, 70)
        q, k, v, o = (a.astype(np.float64) for a in (q, k, v, o))
        k, v = k.repeat(2, axis=2), v.repeat(2, axis=2)
        s = np.einsum('bqhd,bkhd->bhqk', q, k) / np.sqrt(40)
        s = np.where(np.arange(90)[None, :] <= np.arange(70)[:, None] + 20, s, -np.inf)
        m = s.max(-1, keepdims=True)
        p = np.exp(s - m)
        l = p.sum(-1, keepdims=True)
        print(abs(np.einsum('bhqk,bkhd->bqhd', p / l, v) - o).max(), abs((m + np.log(l))[..., 0] - lse).max())
        """;

    private static readonly string? Python = FindPython();

    /// <summary>Bounds: for fp16 two units at the size of V (below 8, so 2 * 2^-8); for fp32 sums in fp32.</summary>
    [TestCase("<f2", "C", 8e-3)]
    [TestCase("<f2", "F", 8e-3)]
    [TestCase("<f4", "C", 5e-6)]
    public void RunAgreesWithNumPy(string type, string order, double bound)
    {
        if (Python is null)
        {
            Assert.Ignore("no python3 with numpy here");
        }
        using TemporaryFolder folder = new();
        Run(Make, folder.Path, type, order);
        CliResult result = CliRunner.Run("run", "--q", folder["q.npy"], "--k", folder["k.npy"], "--v", folder["v.npy"], "--causal", "--out", folder["o.npy"],
            "--lse", folder["lse.npy"]);
        Assert.That(result.Code, Is.EqualTo(ExitCode.Ok), result.Error);
        double[] errors = [.. Run(Compare, folder.Path).Split(' ', StringSplitOptions.TrimEntries).Select(text => double.Parse(text,
            CultureInfo.InvariantCulture))];
        TestContext.Out.WriteLine($"O off by {errors[0]:e1}, LSE by {errors[1]:e1}");
        Assert.That(errors[0], Is.LessThan(bound));
        Assert.That(errors[1], Is.LessThan(1e-5));
    }

    private static string Run(string script, params string[] arguments) => RunPython(Python!, script,
        arguments) ?? throw new AssertionException("python failed");

    private static string? FindPython() => new[] { "python3", "/usr/bin/python3", "python" }.FirstOrDefault(name => RunPython(name, "import numpy",
        []) is not null);

    private static string? RunPython(string python, string script, string[] arguments)
    {
        try
        {
            using Process process = Process.Start(new ProcessStartInfo(python, ["-c", script, .. arguments])
            {
                RedirectStandardOutput = true,
                RedirectStandardError = true,
            })!;
            Task<string> error = process.StandardError.ReadToEndAsync();
            string output = process.StandardOutput.ReadToEnd();
            process.WaitForExit();
            if (process.ExitCode != 0)
            {
                TestContext.Out.WriteLine(error.Result);
            }
            return process.ExitCode == 0 ? output : null;
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return null;
        }
    }
}
