namespace FlashAttention.Cli;

/// <summary>An error for the person at the terminal: its message is all that is printed.</summary>
internal sealed class CliException(ExitCode exitCode, string message, Exception? inner = null) : Exception(message, inner)
{
    public ExitCode ExitCode { get; } = exitCode;

    /// <summary>The command line or an input is wrong.</summary>
    public static CliException Usage(string message, Exception? inner = null) => new(ExitCode.Usage, message, inner);
}
