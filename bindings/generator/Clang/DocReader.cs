using System.Text;
using System.Text.RegularExpressions;
using FlashAttention.BindingGenerator.Model;

namespace FlashAttention.BindingGenerator.Clang;

/// <summary>Reads documentation comments: paragraphs and <c>@param</c>.</summary>
internal static partial class DocReader
{
    /// <summary>The documentation clang attached to a declaration.</summary>
    public static CDocumentation FromNode(LocatedNode declaration)
    {
        LocatedNode? comment = declaration.Children.FirstOrDefault(child => child.Kind == "FullComment");
        if (comment is null)
        {
            return CDocumentation.Empty;
        }

        List<string> paragraphs = [];
        List<KeyValuePair<string, string>> parameters = [];
        foreach (LocatedNode block in comment.Children)
        {
            switch (block.Kind)
            {
                case "ParagraphComment":
                    AddNonEmpty(paragraphs, CollectText(block));
                    break;
                case "ParamCommandComment":
                    parameters.Add(new(block.GetString("param"), CollectText(block)));
                    break;
                default:
                    throw new GeneratorException(
                        block.Location,
                        $"unsupported documentation element {block.Kind} '{block.Name}' at '{declaration.Name}'; expected paragraphs and @param");
            }
        }

        return new CDocumentation(paragraphs, parameters);
    }

    /// <summary>Where the comment clang attached to a declaration starts in its file; null if there is none.</summary>
    public static int? FindOffset(LocatedNode declaration) =>
        declaration.Children.FirstOrDefault(child => child.Kind == "FullComment")?.Json.GetProperty("loc").GetProperty("offset").GetInt32();

    /// <summary>The documentation in the text of a comment, for macros, which are no part of the AST.</summary>
    /// <param name="comment">From <c>/**</c> to <c>*/</c>.</param>
    public static CDocumentation FromComment(string comment)
    {
        string body = comment.Trim()[3..^2];
        List<string> paragraphs = [];
        StringBuilder paragraph = new();
        foreach (string line in body.Split('\n'))
        {
            string text = line.Trim().TrimStart('*').Trim();
            if (text.Length == 0)
            {
                AddNonEmpty(paragraphs, Normalize(paragraph.ToString()));
                paragraph.Clear();
            }

            paragraph.Append(text).Append(' ');
        }

        AddNonEmpty(paragraphs, Normalize(paragraph.ToString()));
        return new CDocumentation(paragraphs, []);
    }

    private static void AddNonEmpty(List<string> paragraphs, string text)
    {
        if (text.Length > 0)
        {
            paragraphs.Add(text);
        }
    }

    private static string CollectText(LocatedNode node)
    {
        StringBuilder text = new();
        int line = 0;
        Append(node, text, ref line);
        return Normalize(text.ToString());
    }

    /// <summary>Clang gives one piece of text per line, and splits lines further at characters it looks at, such as '&lt;'.</summary>
    private static void Append(LocatedNode node, StringBuilder text, ref int line)
    {
        foreach (LocatedNode child in node.Children)
        {
            switch (child.Kind)
            {
                case "ParagraphComment":
                    Append(child, text, ref line);
                    break;
                case "TextComment":
                    text.Append(child.Location.Line == line ? string.Empty : " ").Append(child.GetString("text"));
                    line = child.Location.Line;
                    break;
                default:
                    throw new GeneratorException(child.Location, $"unsupported documentation element {child.Kind} '{child.Name}'; expected plain text");
            }
        }
    }

    private static string Normalize(string text) => Whitespace().Replace(text, " ").Trim();

    [GeneratedRegex(@"\s+")]
    private static partial Regex Whitespace();
}
