using System.Text.Json;

namespace FlashAttention.BindingGenerator.Clang;

/// <summary>A node of clang's AST with the position of its name and the positions of its descendants.</summary>
internal sealed record LocatedNode(JsonElement Json, SourceLocation Location, IReadOnlyList<LocatedNode> Children)
{
    /// <summary>Clang's name of the node's kind, e.g. <c>FunctionDecl</c>.</summary>
    public string Kind => GetString("kind");

    /// <summary>Declared name; empty for an anonymous declaration.</summary>
    public string Name => GetString("name");

    /// <summary>Type as clang prints it, with typedef names kept; empty if the node has none.</summary>
    public string QualifiedType =>
        Json.TryGetProperty("type", out JsonElement type) && type.TryGetProperty("qualType", out JsonElement text) ? text.GetString()! : string.Empty;

    /// <summary>A text property; empty if absent.</summary>
    public string GetString(string property) =>
        Json.TryGetProperty(property, out JsonElement value) && value.ValueKind == JsonValueKind.String ? value.GetString()! : string.Empty;

    /// <summary>A truth value; false if absent.</summary>
    public bool GetFlag(string property) => Json.TryGetProperty(property, out JsonElement value) && value.ValueKind == JsonValueKind.True;
}

/// <summary>
/// Restores positions in clang's JSON dump. Clang writes <c>file</c> and <c>line</c> only where they differ from the position written before, in document
/// order, so every position of the dump has to be visited to know any one of them.
/// </summary>
internal sealed class AstLocations
{
    private readonly HeaderSet _headers;
    private string _file = string.Empty;
    private int _line;

    private AstLocations(HeaderSet headers) => _headers = headers;

    /// <summary>The top-level declarations that belong to the interface.</summary>
    /// <param name="root">The translation unit.</param>
    /// <param name="headers">Which files are the interface.</param>
    public static IReadOnlyList<LocatedNode> TopLevel(JsonElement root, HeaderSet headers)
    {
        AstLocations locations = new(headers);
        List<LocatedNode> result = [];
        if (root.TryGetProperty("inner", out JsonElement inner))
        {
            foreach (JsonElement child in inner.EnumerateArray())
            {
                (LocatedNode node, string file) = locations.Visit(child);
                if (file.Length > 0 && headers.Contains(file))
                {
                    result.Add(node);
                }
            }
        }

        return result;
    }

    private (LocatedNode Node, string File) Visit(JsonElement json)
    {
        string file = string.Empty;
        int line = 0;
        List<LocatedNode> children = [];
        foreach (JsonProperty property in json.EnumerateObject())
        {
            switch (property.Name)
            {
                case "loc":
                    (file, line) = VisitPosition(property.Value);
                    break;
                case "range":
                    (string rangeFile, int rangeLine) = VisitPosition(property.Value.GetProperty("begin"));
                    VisitPosition(property.Value.GetProperty("end"));
                    if (file.Length == 0)
                    {
                        (file, line) = (rangeFile, rangeLine);
                    }

                    break;
                case "inner":
                    foreach (JsonElement child in property.Value.EnumerateArray())
                    {
                        if (child.ValueKind == JsonValueKind.Object)
                        {
                            children.Add(Visit(child).Node);
                        }
                    }

                    break;
            }
        }

        string display = file.Length == 0 ? string.Empty : _headers.Contains(file) ? _headers.Display(file) : file;
        return (new LocatedNode(json, new SourceLocation(display, line), children), file);
    }

    /// <summary>Reads one position and remembers it. Inside a macro it has two parts, and both count; the expansion is where the user wrote it.</summary>
    private (string File, int Line) VisitPosition(JsonElement position)
    {
        if (position.TryGetProperty("spellingLoc", out JsonElement spelling))
        {
            VisitPosition(spelling);
            return VisitPosition(position.GetProperty("expansionLoc"));
        }

        if (!position.TryGetProperty("offset", out _))
        {
            return (string.Empty, 0);
        }

        if (position.TryGetProperty("file", out JsonElement file))
        {
            _file = file.GetString()!;
        }

        if (position.TryGetProperty("line", out JsonElement line))
        {
            _line = line.GetInt32();
        }

        return (_file, _line);
    }
}
