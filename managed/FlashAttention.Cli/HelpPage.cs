using System.Reflection;
using CommandLine;
using CommandLine.Text;
using FlashAttention.Cli.Options;
using FlashAttention.Cli.Output;

namespace FlashAttention.Cli;

/// <summary>Help, version, and the words for a wrong command line.</summary>
internal static class HelpPage
{
    private const int Width = 120;

    public static ExitCode Show(NotParsed<object> result, string[] arguments, CliConsole console)
    {
        if (result.Errors.Any(error => error is VersionRequestedError))
        {
            console.WriteLine($"flashattn {ProductVersion}");
            return ExitCode.Ok;
        }
        if (result.Errors.Any(error => error is HelpRequestedError or HelpVerbRequestedError))
        {
            console.WriteLine(Text(result));
            return ExitCode.Ok;
        }
        if (arguments.Length == 0)
        {
            console.Error.WriteLine(Text(result));
            return ExitCode.Usage;
        }
        SentenceBuilder sentences = SentenceBuilder.Create();
        foreach (Error error in result.Errors)
        {
            console.Error.WriteLine($"flashattn: {Sentence(error, sentences)}");
        }
        string verb = result.TypeInfo.Current == typeof(NullInstance) ? string.Empty : $" {arguments[0]}";
        console.Error.WriteLine($"Try 'flashattn{verb} --help'.");
        return ExitCode.Usage;
    }

    /// <summary>Version of this program, e.g. "0.2.0".</summary>
    public static string ProductVersion => typeof(HelpPage).Assembly.GetName().Version?.ToString(3) ?? "0.0.0";

    private static string Sentence(Error error, SentenceBuilder sentences) => error switch
    {
        BadVerbSelectedError e => $"there is no command '{e.Token}'",
        UnknownOptionError e => $"there is no option '{(e.Token.Length == 1 ? "-" : "--")}{e.Token}'",
        MissingRequiredOptionError e => $"option {Name(e.NameInfo)} is needed",
        MissingValueOptionError e => $"option {Name(e.NameInfo)} needs a value",
        BadFormatConversionError e => $"the value of option {Name(e.NameInfo)} is not of the right kind (see --help)",
        RepeatedOptionError e => $"option {Name(e.NameInfo)} is given twice",
        MutuallyExclusiveSetError e => $"option --{e.NameInfo.LongName} contradicts another option given",
        _ => sentences.FormatError(error).TrimEnd('.'),
    };

    /// <summary>The name that the examples use: the shortest that starts with two dashes here.</summary>
    private static string Name(NameInfo name) => name.ShortName.Length > 0 ? $"--{name.ShortName}" : $"--{name.LongName}";

    private static string Text(NotParsed<object> result)
    {
        HelpText help = HelpText.AutoBuild(result, text =>
        {
            text.Heading = $"flashattn {ProductVersion} - exact attention on CPU and CUDA";
            _ = text.AddPreOptionsLine(Usage(result.TypeInfo.Current));
            text.Copyright = string.Empty;
            text.AdditionalNewLineAfterOption = false;
            text.MaximumDisplayWidth = Width;
            text.AddDashesToOption = true;
            return text;
        }, e => e, verbsIndex: true, maxDisplayWidth: Width);
        return help + Environment.NewLine + Footer(result.TypeInfo.Current);
    }

    /// <summary>What the command does, and the shape of its command line.</summary>
    private static string Usage(Type options)
    {
        if (options.GetCustomAttribute<VerbAttribute>() is not { } verb)
        {
            return $"{Environment.NewLine}Usage: flashattn COMMAND [OPTIONS]";
        }
        string required = options == typeof(RunOptions) ? " --q FILE --k FILE --v FILE --out FILE" : string.Empty;
        return $"{Environment.NewLine}{verb.HelpText}{Environment.NewLine}{Environment.NewLine}Usage: flashattn {verb.Name}{required} [OPTIONS]";
    }

    private static string Footer(Type verb)
    {
        string[] examples = verb.Name switch
        {
            nameof(RunOptions) => RunOptions.Examples,
            nameof(DemoOptions) => DemoOptions.Examples,
            nameof(VerifyOptions) => VerifyOptions.Examples,
            nameof(ExplainOptions) => ExplainOptions.Examples,
            nameof(BenchOptions) => BenchOptions.Examples,
            nameof(InfoOptions) => InfoOptions.Examples,
            nameof(DoctorOptions) => DoctorOptions.Examples,
            _ => ["flashattn demo", "flashattn run --q q.npy --k k.npy --v v.npy --causal --out o.npy", "flashattn explain --len-q 4096 --dim 128",
                "flashattn run --help"],
        };
        return $"""
            Examples:
              {string.Join($"{Environment.NewLine}  ", examples)}

            Exit codes: 0 done, 1 a check or a computation failed, 2 wrong command line or input, 3 device or native library unavailable, 130 stopped.
            Environment: FLASH_ATTENTION_LIBRARY native library to load, FLASH_ATTENTION_DEBUG=1 stack traces, NO_COLOR no colours.
            """;
    }
}
