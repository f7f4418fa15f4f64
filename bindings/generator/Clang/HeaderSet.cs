namespace FlashAttention.BindingGenerator.Clang;

/// <summary>A header and the folder its includes are relative to. Files below that folder are the interface; all others are the system's.</summary>
internal sealed class HeaderSet
{
    /// <summary>Names a header.</summary>
    /// <param name="header">The header that includes the whole interface.</param>
    /// <param name="includeFolder">Folder of the interface; null for the parent of the header's folder, as in <c>include/product/product.h</c>.</param>
    /// <exception cref="GeneratorException">The header does not exist.</exception>
    public HeaderSet(string header, string? includeFolder = null)
    {
        Header = Path.GetFullPath(header);
        if (!File.Exists(Header))
        {
            throw new GeneratorException($"header: expected an existing file, got '{Header}'");
        }

        string headerFolder = Path.GetDirectoryName(Header)!;
        IncludeFolder = Path.GetFullPath(includeFolder ?? Path.GetDirectoryName(headerFolder) ?? headerFolder);
    }

    /// <summary>Full path of the header.</summary>
    public string Header { get; }

    /// <summary>Full path of the folder that includes are relative to.</summary>
    public string IncludeFolder { get; }

    /// <summary>Tells whether a file belongs to the interface.</summary>
    public bool Contains(string file) => Path.GetFullPath(file).StartsWith(IncludeFolder + Path.DirectorySeparatorChar, StringComparison.Ordinal);

    /// <summary>A file's name relative to the include folder, with '/' on every system.</summary>
    public string Display(string file) => Path.GetRelativePath(IncludeFolder, Path.GetFullPath(file)).Replace('\\', '/');
}
