namespace FlashAttention.Cli.Files;

/// <summary>One tensor to write. The data stays the caller's and is in C order of the shape.</summary>
internal sealed unsafe class OutputTensor(string path, string name, StoredType type, long[] shape, byte* data, string? bfloat16Descr = null)
{
    public string Path { get; } = path;

    /// <summary>Name in a .safetensors file.</summary>
    public string Name { get; } = name;

    public StoredType Type { get; } = type;

    public long[] Shape { get; } = shape;

    public byte* Data { get; } = data;

    /// <summary>How bfloat16 is spelt in .npy, which has no such type.</summary>
    public string BFloat16Descr { get; } = bfloat16Descr ?? "<u2";

    public long Bytes => StoredTypes.TryCount(Shape, out long count) ? count * Type.Bytes() : throw new InvalidOperationException("Shape too large.");
}

/// <summary>Writes results so that a file appears complete or not at all: everything goes into temporary files beside the targets, which are renamed only
/// when all of them are complete.</summary>
internal static unsafe class OutputFiles
{
    private const int ChunkBytes = 1 << 24;

    /// <summary>Checks, before anything is computed, that the outputs can be written where the options say.</summary>
    /// <param name="outputs">Option and path of every output.</param>
    /// <param name="inputs">Paths of the inputs, which must not be replaced.</param>
    /// <param name="overwrite">Whether existing files may be replaced.</param>
    public static void Check(IReadOnlyList<(string Option, string Path)> outputs, IReadOnlyList<string> inputs, bool overwrite)
    {
        HashSet<string> inputPaths = [.. inputs.Select(Path.GetFullPath)];
        Dictionary<string, string> seen = [];
        foreach ((string option, string path) in outputs)
        {
            TensorFormat.Kind format = TensorFormat.Of(path);
            string full = Path.GetFullPath(path);
            if (inputPaths.Contains(full))
            {
                throw CliException.Usage($"{option} {path}: this file is also an input");
            }
            if (!seen.TryAdd(full, option) && format == TensorFormat.Kind.Npy)
            {
                throw CliException.Usage($"{option} {path}: {seen[full]} writes the same file; a .npy file holds one tensor "
                    + "(a .safetensors file may hold all)");
            }
            string? directory = Path.GetDirectoryName(full);
            if (directory is null || !Directory.Exists(directory))
            {
                throw CliException.Usage($"{option} {path}: the folder {directory} does not exist");
            }
            if (Directory.Exists(full))
            {
                throw CliException.Usage($"{option} {path}: this is a folder");
            }
            if (File.Exists(full) && !overwrite)
            {
                throw CliException.Usage($"{option} {path}: the file exists; add --overwrite to replace it");
            }
        }
    }

    /// <summary>Writes all tensors; those that name the same .safetensors file go into it together.</summary>
    public static void Write(IReadOnlyList<OutputTensor> tensors, bool overwrite, CancellationToken cancellation)
    {
        List<(string Temporary, string Target)> files = [];
        try
        {
            foreach (IGrouping<string, OutputTensor> group in tensors.GroupBy(tensor => Path.GetFullPath(tensor.Path)))
            {
                string temporary = $"{group.Key}.{Guid.NewGuid():N}.tmp";
                files.Add((temporary, group.Key));
                WriteFile(temporary, group.Key, [.. group], cancellation);
            }
            cancellation.ThrowIfCancellationRequested();
            foreach ((string temporary, string target) in files)
            {
                File.Move(temporary, target, overwrite);
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new CliException(ExitCode.Failed, $"the result could not be written: {e.Message}", e);
        }
        finally
        {
            foreach ((string temporary, _) in files)
            {
                TryDelete(temporary);
            }
        }
    }

    private static void WriteFile(string temporary, string target, OutputTensor[] tensors, CancellationToken cancellation)
    {
        using FileStream stream = new(temporary, FileMode.CreateNew, FileAccess.Write, FileShare.None, bufferSize: 0);
        if (TensorFormat.Of(target) == TensorFormat.Kind.Npy)
        {
            OutputTensor tensor = tensors[0];
            string descr = tensor.Type switch
            {
                StoredType.Float16 => "<f2",
                StoredType.BFloat16 => tensor.BFloat16Descr,
                StoredType.Float32 => "<f4",
                _ => "<f8",
            };
            stream.Write(NpyHeader.Write(descr, tensor.Shape));
        }
        else
        {
            stream.Write(SafetensorsHeader.Write(tensors.Select(tensor => (tensor.Name, SafetensorsName(tensor.Type), tensor.Shape, tensor.Bytes))));
        }
        foreach (OutputTensor tensor in tensors)
        {
            long bytes = tensor.Bytes;
            for (long at = 0; at < bytes; at += ChunkBytes)
            {
                cancellation.ThrowIfCancellationRequested();
                stream.Write(new ReadOnlySpan<byte>(tensor.Data + at, (int)Math.Min(ChunkBytes, bytes - at)));
            }
        }
        stream.Flush(flushToDisk: true);
    }

    private static string SafetensorsName(StoredType type) => type switch
    {
        StoredType.Float16 => "F16",
        StoredType.BFloat16 => "BF16",
        StoredType.Float32 => "F32",
        _ => "F64",
    };

    private static void TryDelete(string path)
    {
        try
        {
            File.Delete(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // The first error is the one to report; a left-over temporary file must not hide it.
        }
    }
}
