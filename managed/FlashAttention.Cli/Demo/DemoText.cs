using System.Reflection;
using System.Text;
using FlashAttention.Cli.Files;

namespace FlashAttention.Cli.Demo;

/// <summary>The text that the demo attends over: bytes, repeated where a longer sequence is asked for than the text has.</summary>
internal sealed class DemoText(byte[] bytes, string source)
{
    private const long MaxBytes = 1 << 28;

    /// <summary>Where the text comes from.</summary>
    public string Source { get; } = source;

    /// <summary>The built-in text, or a file.</summary>
    public static DemoText Load(string? path)
    {
        if (path is null)
        {
            using Stream stream = Assembly.GetExecutingAssembly().GetManifestResourceStream("alice.txt")
                ?? throw new InvalidOperationException("The built-in text is missing.");
            byte[] bytes = new byte[stream.Length];
            stream.ReadExactly(bytes);
            return new DemoText(bytes, "Lewis Carroll, Alice's Adventures in Wonderland (1865), chapters 1 and 2");
        }
        using MappedFile file = new(path);
        if (file.Length is 0 or > MaxBytes)
        {
            throw CliException.Usage($"--text {path}: the file has {file.Length} bytes; expected 1 to {MaxBytes}");
        }
        return new DemoText(file.Head(0, (int)file.Length).ToArray(), path);
    }

    /// <summary>The first bytes.</summary>
    public byte[] Take(int length)
    {
        byte[] result = new byte[length];
        for (int i = 0; i < length; i++)
        {
            result[i] = bytes[i % bytes.Length];
        }
        return result;
    }

    /// <summary>The last letter of the first <paramref name="length"/> bytes that has at least two more before it.</summary>
    public int LastLetter(int length)
    {
        byte[] text = Take(length);
        for (int i = length - 1; i >= 2; i--)
        {
            if (char.IsAsciiLetter((char)text[i]) && char.IsAsciiLetter((char)text[i - 1]) && char.IsAsciiLetter((char)text[i - 2]))
            {
                return i;
            }
        }
        return length - 1;
    }

    /// <summary>The surroundings of a position on one line, with the position in brackets.</summary>
    public static string Context(byte[] text, int position, int before, int after)
    {
        StringBuilder line = new();
        for (int i = Math.Max(0, position - before); i <= Math.Min(text.Length - 1, position + after); i++)
        {
            char c = text[i] is >= 0x20 and < 0x7F ? (char)text[i] : text[i] is (byte)'\n' or (byte)'\r' or (byte)'\t' ? ' ' : '.';
            line.Append(i == position ? $"[{c}]" : c.ToString());
        }
        return line.ToString();
    }
}
