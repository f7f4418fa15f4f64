namespace FlashAttention.BindingGenerator.Emit;

/// <summary>What the generated source needs beside the model.</summary>
/// <param name="HeaderName">The header's name for the file comment, relative to its include folder.</param>
/// <param name="Namespace">Namespace of all generated types.</param>
/// <param name="LibraryName">Name to import from, without the platform's prefix and suffix.</param>
internal sealed record EmitOptions(string HeaderName, string Namespace = "FlashAttention.Interop", string LibraryName = "flash_attention");
