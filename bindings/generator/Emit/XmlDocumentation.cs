using FlashAttention.BindingGenerator.Model;

namespace FlashAttention.BindingGenerator.Emit;

/// <summary>Writes documentation as C# XML comments: the first paragraph is the summary, the others are remarks.</summary>
internal static class XmlDocumentation
{
    private const string Prefix = "/// ";

    /// <summary>Writes nothing for an undocumented declaration.</summary>
    public static void Write(CSharpWriter writer, CDocumentation documentation)
    {
        IReadOnlyList<string> paragraphs = documentation.Paragraphs;
        if (paragraphs.Count > 0)
        {
            writer.Wrapped(Prefix, $"<summary>{Escape(paragraphs[0])}</summary>");
        }

        if (paragraphs.Count == 2)
        {
            writer.Wrapped(Prefix, $"<remarks>{Escape(paragraphs[1])}</remarks>");
        }
        else if (paragraphs.Count > 2)
        {
            writer.Line(Prefix + "<remarks>");
            foreach (string paragraph in paragraphs.Skip(1))
            {
                writer.Wrapped(Prefix, $"<para>{Escape(paragraph)}</para>");
            }

            writer.Line(Prefix + "</remarks>");
        }

        foreach ((string name, string text) in documentation.Parameters)
        {
            writer.Wrapped(Prefix, $"<param name=\"{name}\">{Escape(text)}</param>");
        }
    }

    private static string Escape(string text) =>
        text.Replace("&", "&amp;", StringComparison.Ordinal).Replace("<", "&lt;", StringComparison.Ordinal).Replace(">", "&gt;", StringComparison.Ordinal);
}
