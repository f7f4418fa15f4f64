using CommandLine;
using FlashAttention.BindingGenerator.Commands;

namespace FlashAttention.BindingGenerator;

/// <summary>The command line: <c>generate</c> and <c>verify</c>.</summary>
internal static class Program
{
    private const int UsageError = 2;

    private static int Main(string[] arguments) => Run(arguments, Console.Out, Console.Error);

    /// <summary>Runs a command.</summary>
    /// <returns>Exit code: 0 success, 1 a difference or an error, 2 wrong usage.</returns>
    internal static int Run(string[] arguments, TextWriter output, TextWriter error)
    {
        using Parser parser = new(settings => settings.HelpWriter = error);
        try
        {
            return parser.ParseArguments<GenerateOptions, VerifyOptions>(arguments).MapResult(
                (GenerateOptions options) => GenerateCommand.Run(options, output),
                (VerifyOptions options) => VerifyCommand.Run(options, output),
                errors => errors.All(IsRequest) ? 0 : UsageError);
        }
        catch (Exception exception) when (exception is GeneratorException or IOException or UnauthorizedAccessException)
        {
            error.WriteLine($"error: {exception.Message}");
            return 1;
        }
    }

    /// <summary>The parser reports a wish for help or for the version as an error.</summary>
    private static bool IsRequest(Error error) =>
        error.Tag is ErrorType.HelpRequestedError or ErrorType.HelpVerbRequestedError or ErrorType.VersionRequestedError;
}
