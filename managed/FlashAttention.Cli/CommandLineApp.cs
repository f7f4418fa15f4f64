using System.Diagnostics.CodeAnalysis;
using System.Reflection;
using CommandLine;
using FlashAttention.Cli.Commands;
using FlashAttention.Cli.Options;
using FlashAttention.Cli.Output;

namespace FlashAttention.Cli;

/// <summary>From arguments to a command, and from whatever happens to an exit code and one clear message.</summary>
internal static class CommandLineApp
{
    /// <summary>Set to 1 to see the stack trace of an error.</summary>
    private const string DebugVariable = "FLASH_ATTENTION_DEBUG";

    private static readonly Type[] Verbs =
    [
        typeof(RunOptions),
        typeof(DemoOptions),
        typeof(VerifyOptions),
        typeof(ExplainOptions),
        typeof(BenchOptions),
        typeof(InfoOptions),
        typeof(DoctorOptions),
    ];

    public static ExitCode Run(string[] arguments, CliConsole console, CancellationToken cancellation)
    {
        try
        {
            return Parse(arguments, console, cancellation);
        }
        catch (OperationCanceledException)
        {
            console.Error.WriteLine("flashattn: stopped; nothing was written");
            return ExitCode.Cancelled;
        }
        catch (Exception e)
        {
            return Report(e, console);
        }
    }

    // CommandLineParser reads the option classes by reflection; these attributes keep them when the program is trimmed.
    [DynamicDependency(DynamicallyAccessedMemberTypes.All, typeof(RunOptions))]
    [DynamicDependency(DynamicallyAccessedMemberTypes.All, typeof(DemoOptions))]
    [DynamicDependency(DynamicallyAccessedMemberTypes.All, typeof(VerifyOptions))]
    [DynamicDependency(DynamicallyAccessedMemberTypes.All, typeof(ExplainOptions))]
    [DynamicDependency(DynamicallyAccessedMemberTypes.All, typeof(BenchOptions))]
    [DynamicDependency(DynamicallyAccessedMemberTypes.All, typeof(InfoOptions))]
    [DynamicDependency(DynamicallyAccessedMemberTypes.All, typeof(DoctorOptions))]
    [DynamicDependency(DynamicallyAccessedMemberTypes.All, typeof(DeviceOptions))]
    [DynamicDependency(DynamicallyAccessedMemberTypes.All, typeof(CommonOptions))]
    [UnconditionalSuppressMessage("Trimming", "IL2026", Justification = "The option classes are kept by the attributes above, CommandLine.dll by the project.")]
    private static ExitCode Parse(string[] arguments, CliConsole console, CancellationToken cancellation)
    {
        if (arguments is ["help", string verb, ..])
        {
            arguments = [verb, "--help"];
        }
        arguments = [.. arguments.Select(LongName)];
        if (arguments is [string name, .. string[] words] && VerbNamed(name) is { } options)
        {
            // A question for help is answered whatever stands beside it.
            if (words.FirstOrDefault(word => word is "--help" or "--version") is { } question)
            {
                arguments = [name, question];
            }
            else
            {
                ArgumentCheck.Check(options, words);
            }
        }
        using Parser parser = new(settings =>
        {
            settings.HelpWriter = null;
            settings.CaseSensitive = true;
            settings.CaseInsensitiveEnumValues = false;
            settings.ParsingCulture = System.Globalization.CultureInfo.InvariantCulture;
        });
        ParserResult<object> result = parser.ParseArguments(arguments, Verbs);
        return result switch
        {
            Parsed<object> { Value: RunOptions o } => RunCommand.Run(o, console, cancellation),
            Parsed<object> { Value: DemoOptions o } => DemoCommand.Run(o, console, cancellation),
            Parsed<object> { Value: VerifyOptions o } => VerifyCommand.Run(o, console, cancellation),
            Parsed<object> { Value: ExplainOptions o } => ExplainCommand.Run(o, console),
            Parsed<object> { Value: BenchOptions o } => BenchCommand.Run(o, console, cancellation),
            Parsed<object> { Value: InfoOptions o } => InfoCommand.Run(o, console),
            Parsed<object> { Value: DoctorOptions o } => DoctorCommand.Run(o, console),
            _ => HelpPage.Show((NotParsed<object>)result, arguments, console),
        };
    }

    [UnconditionalSuppressMessage("Trimming", "IL2075", Justification = "The option classes are kept whole by the attributes of Parse.")]
    private static Type? VerbNamed(string name) => Verbs.FirstOrDefault(type => type.GetCustomAttribute<VerbAttribute>()?.Name == name);

    /// <summary>--q, --k, --v and -h as CommandLineParser knows them: it allows no long name of one letter.</summary>
    private static string LongName(string argument) => argument switch
    {
        "--q" => "--query",
        "--k" => "--key",
        "--v" => "--value",
        "-h" or "-?" => "--help",
        _ when argument.StartsWith("--q=", StringComparison.Ordinal) => $"--query={argument.AsSpan(4)}",
        _ when argument.StartsWith("--k=", StringComparison.Ordinal) => $"--key={argument.AsSpan(4)}",
        _ when argument.StartsWith("--v=", StringComparison.Ordinal) => $"--value={argument.AsSpan(4)}",
        _ => argument,
    };

    private static ExitCode Report(Exception error, CliConsole console)
    {
        Exception cause = error is AggregateException { InnerExceptions.Count: 1 } or TypeInitializationException ? error.InnerException ?? error : error;
        (ExitCode code, string message) = cause switch
        {
            CliException e => (e.ExitCode, e.Message),
            FlashAttentionException e => (CodeOf(e.Status), Format.Message(e.Message)),
            OverflowException e => (ExitCode.Usage, e.Message),
            OutOfMemoryException => (ExitCode.Failed, "not enough memory"),
            IOException or UnauthorizedAccessException => (ExitCode.Failed, cause.Message),
            _ => (ExitCode.Failed, $"unexpected {cause.GetType().Name}: {cause.Message}"),
        };
        console.Error.WriteLine($"flashattn: {message}");
        if (Environment.GetEnvironmentVariable(DebugVariable) == "1")
        {
            console.Error.WriteLine(error);
        }
        return code;
    }

    private static ExitCode CodeOf(AttentionStatus status) => status switch
    {
        AttentionStatus.InvalidArgument or AttentionStatus.Unsupported => ExitCode.Usage,
        AttentionStatus.DeviceUnavailable or AttentionStatus.LibraryUnavailable => ExitCode.DeviceUnavailable,
        _ => ExitCode.Failed,
    };
}
