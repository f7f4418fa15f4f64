using System.IO.MemoryMappedFiles;

namespace FlashAttention.Cli.Files;

/// <summary>A file mapped read-only into memory: pages are read when they are touched, so a large tensor costs no copy.</summary>
internal sealed unsafe class MappedFile : IDisposable
{
    private readonly MemoryMappedFile? _file;
    private readonly MemoryMappedViewAccessor? _view;
    private byte* _pointer;

    public MappedFile(string path)
    {
        Path = path;
        try
        {
            using FileStream stream = new(path, FileMode.Open, FileAccess.Read, FileShare.Read, bufferSize: 0);
            Length = stream.Length;
            if (Length == 0)
            {
                return;
            }
            _file = MemoryMappedFile.CreateFromFile(stream, null, 0, MemoryMappedFileAccess.Read, HandleInheritability.None, leaveOpen: false);
            _view = _file.CreateViewAccessor(0, Length, MemoryMappedFileAccess.Read);
            _view.SafeMemoryMappedViewHandle.AcquirePointer(ref _pointer);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or NotSupportedException or ArgumentException)
        {
            Dispose();
            throw CliException.Usage(e is FileNotFoundException or DirectoryNotFoundException ? $"{path}: no such file"
                : $"{path}: cannot be read: {e.Message}", e);
        }
    }

    public string Path { get; }

    /// <summary>Bytes in the file.</summary>
    public long Length { get; }

    /// <summary>First byte of the file; null if the file is empty.</summary>
    public byte* Pointer => _pointer;

    /// <summary>At most <paramref name="maximum"/> bytes from an offset on.</summary>
    public ReadOnlySpan<byte> Head(long offset, int maximum) =>
        offset >= Length ? default : new ReadOnlySpan<byte>(_pointer + offset, (int)Math.Min(maximum, Length - offset));

    public void Dispose()
    {
        if (_pointer != null)
        {
            _view!.SafeMemoryMappedViewHandle.ReleasePointer();
            _pointer = null;
        }
        _view?.Dispose();
        _file?.Dispose();
    }
}
