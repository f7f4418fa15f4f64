namespace FlashAttention.Cli.Files;

/// <summary>File formats, told apart by extension.</summary>
internal static class TensorFormat
{
    public enum Kind
    {
        Npy,
        Safetensors,
    }

    public static Kind Of(string path) => Path.GetExtension(path).ToLowerInvariant() switch
    {
        ".npy" => Kind.Npy,
        ".safetensors" => Kind.Safetensors,
        _ => throw CliException.Usage($"{path}: the file name must end in .npy or .safetensors"),
    };
}
