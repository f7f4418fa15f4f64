using System.Buffers;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using FlashAttention.Cli.Options;
using Spectre.Console;
using Spectre.Console.Rendering;

namespace FlashAttention.Cli.Output;

/// <summary>Where a command writes: results on standard output, progress and errors on standard error.</summary>
internal sealed class CliConsole
{
    /// <summary>Width of tables when standard output is no terminal: wide enough that nothing wraps.</summary>
    private const int RedirectedWidth = 200;

    private readonly IAnsiConsole _ansi;
    private readonly IAnsiConsole? _progress;

    private CliConsole(TextWriter output, TextWriter error, bool outputIsTerminal, bool errorIsTerminal)
    {
        Out = output;
        Error = error;
        bool noColor = !string.IsNullOrEmpty(Environment.GetEnvironmentVariable("NO_COLOR"));
        _ansi = Create(output, outputIsTerminal, noColor);
        if (!outputIsTerminal)
        {
            _ansi.Profile.Width = RedirectedWidth;
        }
        _progress = errorIsTerminal ? Create(error, terminal: true, noColor) : null;
    }

    public TextWriter Out { get; }

    public TextWriter Error { get; }

    /// <summary>The console of this process.</summary>
    public static CliConsole System() => new(Console.Out, Console.Error, !Console.IsOutputRedirected, !Console.IsErrorRedirected);

    /// <summary>A console that is no terminal.</summary>
    public static CliConsole To(TextWriter output, TextWriter error) => new(output, error, outputIsTerminal: false, errorIsTerminal: false);

    public void WriteLine(string text = "") => Out.WriteLine(text);

    /// <summary>Writes a line in bold where the terminal can.</summary>
    public void WriteTitle(string text) => _ansi.Write(new Text(text + "\n", new Style(decoration: Decoration.Bold)));

    /// <summary>Writes a table; columns whose title starts with '&gt;' hold numbers and are right-aligned.</summary>
    public void WriteTable(IReadOnlyList<string> columns, IEnumerable<IReadOnlyList<string>> rows)
    {
        Table table = new() { Border = TableBorder.Rounded, UseSafeBorder = true };
        foreach (string column in columns)
        {
            bool number = column.StartsWith('>');
            TableColumn header = new(new Text(number ? column[1..] : column, new Style(decoration: Decoration.Bold))) { NoWrap = number };
            table.AddColumn(number ? header.RightAligned() : header);
        }
        foreach (IReadOnlyList<string> row in rows)
        {
            table.AddRow(row.Select(IRenderable (cell) => new Text(cell)));
        }
        _ansi.Write(table);
    }

    /// <summary>Writes the result of a command: as one JSON object if --json is given, otherwise as text.</summary>
    public void WriteReport<T>(T report, CommonOptions options, JsonTypeInfo<T> type, Action<T, CliConsole> writeText)
    {
        if (!options.Json)
        {
            writeText(report, this);
            return;
        }
        ArrayBufferWriter<byte> bytes = new();
        using (Utf8JsonWriter writer = new(bytes, new JsonWriterOptions { Indented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping }))
        {
            JsonSerializer.Serialize(writer, report, type);
        }
        Out.WriteLine(Encoding.UTF8.GetString(bytes.WrittenSpan));
    }

    /// <summary>Runs work of a known number of steps, with a progress bar if standard error is a terminal.</summary>
    /// <param name="title">What is being done.</param>
    /// <param name="steps">Number of steps.</param>
    /// <param name="work">The work; it is given an action to call after each step.</param>
    public void WithProgress(string title, int steps, Action<Action> work)
    {
        if (_progress is null)
        {
            work(static () => { });
            return;
        }
        _progress.Progress()
            .AutoClear(true)
            .Columns(new TaskDescriptionColumn(), new ProgressBarColumn(), new PercentageColumn(), new RemainingTimeColumn())
            .Start(context =>
            {
                ProgressTask task = context.AddTask(Markup.Escape(title), maxValue: Math.Max(steps, 1));
                work(() => task.Increment(1));
            });
    }

    private static IAnsiConsole Create(TextWriter writer, bool terminal, bool noColor) => AnsiConsole.Create(new AnsiConsoleSettings
    {
        Out = new AnsiConsoleOutput(writer),
        Ansi = terminal ? AnsiSupport.Detect : AnsiSupport.No,
        ColorSystem = terminal && !noColor ? ColorSystemSupport.Detect : ColorSystemSupport.NoColors,
        Interactive = terminal ? InteractionSupport.Detect : InteractionSupport.No,
    });
}
