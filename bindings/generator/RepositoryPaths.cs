namespace FlashAttention.BindingGenerator;

/// <summary>Where things are in the repository, found from the current folder or from the program upward.</summary>
internal sealed record RepositoryPaths(string Root)
{
    /// <summary>The header that includes the whole interface.</summary>
    public string Header => Path.Combine(Root, "native", "include", "flash_attention", "flash_attention.h");

    /// <summary>Folder of the generated C#.</summary>
    public string Output => Path.Combine(Root, "managed", "FlashAttention", "Interop", "Generated");

    /// <summary>The generated module of the Python binding.</summary>
    public string Python => Path.Combine(Root, "bindings", "python", "flash_attention", "_abi.py");

    /// <summary>The recorded binary interface.</summary>
    public string Baseline => Path.Combine(Root, "bindings", "abi-baseline.txt");

    /// <summary>Finds the repository.</summary>
    /// <exception cref="GeneratorException">Neither starting point lies in it.</exception>
    public static RepositoryPaths Find()
    {
        foreach (string start in (string[])[Environment.CurrentDirectory, AppContext.BaseDirectory])
        {
            for (DirectoryInfo? folder = new(start); folder is not null; folder = folder.Parent)
            {
                RepositoryPaths candidate = new(folder.FullName);
                if (File.Exists(candidate.Header))
                {
                    return candidate;
                }
            }
        }

        throw new GeneratorException(
            $"found no native/include/flash_attention/flash_attention.h above '{Environment.CurrentDirectory}'; run it inside the repository");
    }
}
