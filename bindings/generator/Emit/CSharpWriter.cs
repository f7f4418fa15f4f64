using System.Text;

namespace FlashAttention.BindingGenerator.Emit;

/// <summary>Writes indented lines with LF ends.</summary>
internal sealed class CSharpWriter
{
    /// <summary>Longest line the writer makes by wrapping text.</summary>
    public const int MaxColumns = 150;

    private readonly StringBuilder _text = new();
    private int _indent;

    /// <summary>All that was written.</summary>
    public override string ToString() => _text.ToString();

    /// <summary>Writes a line; an empty one has no indentation.</summary>
    public void Line(string line = "")
    {
        if (line.Length > 0)
        {
            _text.Append(' ', _indent * 4).Append(line);
        }

        _text.Append('\n');
    }

    /// <summary>Writes a line and an opening brace, and indents.</summary>
    public void Open(string line)
    {
        Line(line);
        Line("{");
        _indent++;
    }

    /// <summary>Ends what <see cref="Open"/> began.</summary>
    public void Close()
    {
        _indent--;
        Line("}");
    }

    /// <summary>Writes text after a prefix on every line, wrapped between words.</summary>
    public void Wrapped(string prefix, string text)
    {
        int width = MaxColumns - (_indent * 4) - prefix.Length;
        StringBuilder line = new();
        foreach (string word in text.Split(' '))
        {
            if (line.Length > 0 && line.Length + 1 + word.Length > width)
            {
                Line(prefix + line);
                line.Clear();
            }

            line.Append(line.Length > 0 ? " " : string.Empty).Append(word);
        }

        Line(prefix + line);
    }
}
