using System.ComponentModel;
using System.Diagnostics;

namespace FlashAttention.BindingGenerator.Clang;

/// <summary>Runs a tool and collects what it prints.</summary>
internal static class ProcessRunner
{
    /// <summary>Runs a tool to its end.</summary>
    /// <returns>Standard output.</returns>
    /// <exception cref="GeneratorException">The tool cannot be started, or ended with an exit code other than 0.</exception>
    public static string Run(string tool, IReadOnlyList<string> arguments)
    {
        ProcessStartInfo start = new(tool) { RedirectStandardOutput = true, RedirectStandardError = true, UseShellExecute = false };
        foreach (string argument in arguments)
        {
            start.ArgumentList.Add(argument);
        }

        Process process;
        try
        {
            process = Process.Start(start) ?? throw new GeneratorException($"cannot start '{tool}'");
        }
        catch (Win32Exception exception)
        {
            throw new GeneratorException($"cannot start '{tool}': {exception.Message}");
        }

        using (process)
        {
            Task<string> error = process.StandardError.ReadToEndAsync();
            string output = process.StandardOutput.ReadToEnd();
            process.WaitForExit();
            if (process.ExitCode != 0)
            {
                throw new GeneratorException($"'{tool} {string.Join(' ', arguments)}' ended with exit code {process.ExitCode}:\n{error.Result.TrimEnd()}");
            }

            return output;
        }
    }

    /// <summary>Finds a tool: the explicit choice, then the environment variable, then the first candidate on PATH.</summary>
    /// <param name="chosen">From the command line; null if not given.</param>
    /// <param name="environmentVariable">E.g. <c>CLANG</c>.</param>
    /// <param name="candidates">Names to look for on PATH, best first.</param>
    public static string FindTool(string? chosen, string environmentVariable, IReadOnlyList<string> candidates)
    {
        if (!string.IsNullOrEmpty(chosen))
        {
            return chosen;
        }

        if (Environment.GetEnvironmentVariable(environmentVariable) is { Length: > 0 } fromEnvironment)
        {
            return fromEnvironment;
        }

        string[] folders = (Environment.GetEnvironmentVariable("PATH") ?? string.Empty).Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries);
        string suffix = OperatingSystem.IsWindows() ? ".exe" : string.Empty;
        foreach (string candidate in candidates)
        {
            foreach (string folder in folders)
            {
                string path = Path.Combine(folder, candidate + suffix);
                if (File.Exists(path))
                {
                    return path;
                }
            }
        }

        throw new GeneratorException(
            $"found none of {string.Join(", ", candidates)} on PATH; install one or name it in the environment variable {environmentVariable}");
    }
}
