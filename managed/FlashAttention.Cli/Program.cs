using System.Text;
using FlashAttention.Cli;
using FlashAttention.Cli.Output;

if (Console.IsOutputRedirected)
{
    // Without a byte order mark: other programs read this.
    Console.OutputEncoding = new UTF8Encoding(encoderShouldEmitUTF8Identifier: false);
}

using CancellationTokenSource cancellation = new();
Console.CancelKeyPress += (_, e) =>
{
    // The first Ctrl-C lets the command stop between two steps and remove its temporary files; a second one ends the process at once.
    e.Cancel = !cancellation.IsCancellationRequested;
    cancellation.Cancel();
};

return (int)CommandLineApp.Run(args, CliConsole.System(), cancellation.Token);
