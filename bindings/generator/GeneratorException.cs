namespace FlashAttention.BindingGenerator;

/// <summary>A position in a header, for messages: file as the user knows it, line from 1.</summary>
internal readonly record struct SourceLocation(string File, int Line)
{
    /// <summary>The usual <c>file:line</c> form.</summary>
    public override string ToString() => $"{File}:{Line}";
}

/// <summary>An error the user can act on: an unsupported construct, a missing tool, a file that cannot be read.</summary>
internal sealed class GeneratorException : Exception
{
    /// <summary>An error that has no place in a header.</summary>
    public GeneratorException(string message)
        : base(message)
    {
    }

    /// <summary>An error at a place in a header; the message starts with <c>file:line</c>.</summary>
    public GeneratorException(SourceLocation location, string message)
        : base($"{location}: {message}")
    {
    }
}
