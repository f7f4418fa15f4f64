using CommandLine;

namespace FlashAttention.Cli.Options;

[Verb("demo", HelpText = "Attention over a real text, fused beside naive: error, time, memory. Needs no files.")]
internal sealed class DemoOptions : DeviceOptions
{
    public static readonly string[] Examples =
    [
        "flashattn demo",
        "flashattn demo --text README.md --dtype float16",
        "flashattn demo --device cuda --len 1024,4096,16384",
    ];

    [Option("text", MetaValue = "FILE",
        HelpText = "The text to attend over, taken as bytes (default: a built-in chapter of Alice's Adventures in Wonderland, 1865).")]
    public string? Text { get; set; }

    [Option("len", Separator = ',', MetaValue = "N,N...",
        HelpText = "Sequence lengths in characters (default 512,1024,2048,4096); a text that is shorter is repeated.")]
    public IEnumerable<int> Lengths { get; set; } = [];

    [Option("heads", Default = 4, MetaValue = "N", HelpText = "Heads, 1 to 64.")]
    public int Heads { get; set; } = 4;

    [Option("dtype", MetaValue = "TYPE", HelpText = "float32, float16 or bfloat16 (default: float32 on the CPU, float16 on a GPU).")]
    public string? DType { get; set; }

    [Option("seed", Default = 1865, MetaValue = "N", HelpText = "Seed of the embeddings and projections.")]
    public int Seed { get; set; } = 1865;

    [Option("query", MetaValue = "POSITION", HelpText = "Which character to ask what it attends to (default: one in the last line of the longest text).")]
    public int? Query { get; set; }
}
