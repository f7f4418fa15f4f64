using System.Text.Json;
using FlashAttention.BindingGenerator.Model;

namespace FlashAttention.BindingGenerator.Clang;

/// <summary>From a header to the model, with clang doing the parsing.</summary>
internal static class HeaderParser
{
    /// <summary>Deepest nesting of the AST dump that is accepted; system headers stay below 100.</summary>
    private const int MaxJsonDepth = 1024;

    /// <summary>Names clang is looked for by: plain <c>clang</c> first, as the user's own choice, then the newest.</summary>
    public static readonly string[] ClangNames = ["clang", .. Enumerable.Range(14, 12).Reverse().Select(version => $"clang-{version}")];

    /// <summary>Parses a header.</summary>
    /// <param name="headers">The header and its include folder.</param>
    /// <param name="clang">Path of clang; null to look for it.</param>
    /// <exception cref="GeneratorException">Clang is missing or refuses the header, or the header uses a construct without a C# form.</exception>
    public static CApi Parse(HeaderSet headers, string? clang = null)
    {
        string tool = ProcessRunner.FindTool(clang, "CLANG", ClangNames);
        string[] common = ["-x", "c", "-std=c11", "-I", headers.IncludeFolder];
        string ast = ProcessRunner.Run(tool, ["-Xclang", "-ast-dump=json", "-fsyntax-only", "-Werror=strict-prototypes", .. common, headers.Header]);
        string macros = ProcessRunner.Run(tool, ["-E", "-dD", .. common, headers.Header]);

        using JsonDocument document = JsonDocument.Parse(ast, new JsonDocumentOptions { MaxDepth = MaxJsonDepth });
        IReadOnlyList<LocatedNode> nodes = AstLocations.TopLevel(document.RootElement, headers);
        return new ApiBuilder(nodes, MacroReader.Read(macros, headers)).Build();
    }
}
