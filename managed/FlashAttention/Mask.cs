using System.Diagnostics.CodeAnalysis;
using System.Globalization;
using FlashAttention.Interop;

namespace FlashAttention;

/// <summary>Where the diagonal of a mask lies when the numbers of queries and keys differ: the position of query i among the keys.</summary>
public enum Alignment
{
    /// <summary>Query i is at key i (PyTorch's is_causal).</summary>
    TopLeft = 1,

    /// <summary>Query i is at key i + len_kv − len_q: the last query is at the last key (FlashAttention's causal).</summary>
    BottomRight = 2,
}

/// <summary>Which keys a query sees, by position. Immutable; compares by value.</summary>
/// <remarks>Masks combine with <c>&amp;</c>: a query sees a key iff both show it. <c>Mask.Causal(Alignment.BottomRight) &amp; Mask.Window(left: 1023)</c> is
/// a causal window of 1024 keys. A window and a chunk without an alignment take that of what they are combined with. What is hidden pair by pair
/// (<see cref="AttentionOptions.Visible"/>, <see cref="AttentionOptions.BlockMask"/>) narrows any mask further.</remarks>
public abstract record Mask
{
    private static readonly Mask CausalTopLeft = new CausalMask(Alignment.TopLeft);
    private static readonly Mask CausalBottomRight = new CausalMask(Alignment.BottomRight);

    private protected Mask()
    {
    }

    /// <summary>Every query sees every key.</summary>
    public static Mask None { get; } = new NoMask();

    internal abstract MaskTerms Terms { get; }

    /// <summary>The mask that shows what both masks show.</summary>
    /// <param name="left">A mask.</param>
    /// <param name="right">Another mask.</param>
    /// <returns>Windows shrink to their intersection; <see cref="None"/> changes nothing.</returns>
    /// <exception cref="ArgumentNullException">A mask is null.</exception>
    /// <exception cref="ArgumentException">The two have different alignments or different chunk sizes.</exception>
    public static Mask operator &(Mask left, Mask right)
    {
        ArgumentNullException.ThrowIfNull(left);
        ArgumentNullException.ThrowIfNull(right);
        return MaskTerms.Combine(left, right);
    }

    /// <summary>A query sees the keys up to its own position.</summary>
    /// <param name="alignment">Where the diagonal lies when len_q ≠ len_kv; both mean the same when they are equal.</param>
    /// <returns>A shared instance.</returns>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="alignment"/> is no defined value.</exception>
    public static Mask Causal(Alignment alignment) => alignment switch
    {
        Alignment.TopLeft => CausalTopLeft,
        Alignment.BottomRight => CausalBottomRight,
        _ => throw BadAlignment(alignment),
    };

    /// <summary>Sliding window: a query at position p sees the keys p − left … p + right.</summary>
    /// <param name="left">Keys before a query's position that it sees, at least 0; null for all.</param>
    /// <param name="right">Keys after a query's position that it sees, at least 0; null for all.</param>
    /// <param name="alignment">Where position 0 lies when len_q ≠ len_kv. Null: as in the mask that this one is combined with; alone it is refused by the
    /// calls.</param>
    /// <returns>A window.</returns>
    /// <exception cref="ArgumentOutOfRangeException">A number is negative, or <paramref name="alignment"/> is no defined value.</exception>
    public static Mask Window(long? left = null, long? right = null, Alignment? alignment = null) =>
        new WindowMask(Extent(left, nameof(left)), Extent(right, nameof(right)), Defined(alignment));

    /// <summary>Attention chunks, as in Llama 4: a query at position p sees the keys j with ⌊j / size⌋ = ⌊p / size⌋.</summary>
    /// <param name="size">Keys in a chunk, at least 1.</param>
    /// <param name="alignment">Where position 0 lies when len_q ≠ len_kv. Null: as in the mask that this one is combined with; alone it is refused by the
    /// calls.</param>
    /// <returns>A mask.</returns>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="size"/> is less than 1, or <paramref name="alignment"/> is no defined value.</exception>
    public static Mask Chunk(long size, Alignment? alignment = null) => new ChunkMask(ChunkSize(size), Defined(alignment));

    private static long? Extent(long? value, string name) =>
        value is < 0 ? throw new ArgumentOutOfRangeException(name, value, $"{name}: expected null or a number of at least 0, got {value}.") : value;

    private static long ChunkSize(long size) =>
        size < 1 ? throw new ArgumentOutOfRangeException(nameof(size), size, $"size: expected at least 1, got {size}.") : size;

    private static Alignment? Defined(Alignment? alignment) =>
        alignment is null or Alignment.TopLeft or Alignment.BottomRight ? alignment : throw BadAlignment(alignment.Value);

    private static ArgumentOutOfRangeException BadAlignment(Alignment alignment) =>
        new(nameof(alignment), alignment, "alignment: expected TopLeft or BottomRight.");
}

/// <summary>Every query sees every key. See <see cref="Mask.None"/>.</summary>
public sealed record NoMask : Mask
{
    internal NoMask()
    {
    }

    internal override MaskTerms Terms => default;

    /// <inheritdoc/>
    public override string ToString() => "none";
}

/// <summary>A query sees the keys up to its own position. See <see cref="Mask.Causal"/>.</summary>
public sealed record CausalMask : Mask
{
    internal CausalMask(Alignment alignment) => Alignment = alignment;

    /// <summary>Where the diagonal lies when len_q ≠ len_kv.</summary>
    public Alignment Alignment { get; }

    internal override MaskTerms Terms => new(Alignment, MaskBand.Causal, null, 0, null);

    /// <inheritdoc/>
    public override string ToString() => "causal" + MaskTerms.Name(Alignment);
}

/// <summary>Sliding window. See <see cref="Mask.Window"/>.</summary>
public sealed record WindowMask : Mask
{
    internal WindowMask(long? left, long? right, Alignment? alignment) => (Left, Right, Alignment) = (left, right, alignment);

    /// <summary>Keys before a query's position that it sees; null for all.</summary>
    public long? Left { get; }

    /// <summary>Keys after a query's position that it sees; null for all.</summary>
    public long? Right { get; }

    /// <summary>Where position 0 lies when len_q ≠ len_kv; null: that of the mask this one is combined with.</summary>
    public Alignment? Alignment { get; }

    internal override MaskTerms Terms => new(Alignment, MaskBand.Window, Left, Right, null);

    /// <inheritdoc/>
    public override string ToString() => $"window {Bound(Left)} left, {Bound(Right)} right{MaskTerms.Name(Alignment)}";

    private static string Bound(long? keys) => keys?.ToString(CultureInfo.InvariantCulture) ?? "all";
}

/// <summary>Attention chunks. See <see cref="Mask.Chunk"/>.</summary>
public sealed record ChunkMask : Mask
{
    internal ChunkMask(long size, Alignment? alignment) => (Size, Alignment) = (size, alignment);

    /// <summary>Keys in a chunk.</summary>
    public long Size { get; }

    /// <summary>Where position 0 lies when len_q ≠ len_kv; null: that of the mask this one is combined with.</summary>
    public Alignment? Alignment { get; }

    internal override MaskTerms Terms => new(Alignment, MaskBand.None, null, null, Size);

    /// <inheritdoc/>
    public override string ToString() => $"chunks of {Size}{MaskTerms.Name(Alignment)}";
}

/// <summary>A causal mask or a window, and chunks: both must show a key.</summary>
public sealed record CombinedMask : Mask
{
    internal CombinedMask(Mask band, ChunkMask chunk) => (Band, Chunks) = (band, chunk);

    /// <summary>A <see cref="CausalMask"/> or a <see cref="WindowMask"/>.</summary>
    public Mask Band { get; }

    /// <summary>The chunks, of the same alignment.</summary>
    public ChunkMask Chunks { get; }

    internal override MaskTerms Terms => Band.Terms with { Chunk = Chunks.Size };

    /// <inheritdoc/>
    public override string ToString() => $"{Band} and chunks of {Chunks.Size}";
}

internal enum MaskBand
{
    None,
    Causal,
    Window,
}

/// <summary>What a mask is made of.</summary>
/// <param name="Alignment">Where position 0 lies; null where nothing depends on it, or where it was not given.</param>
/// <param name="Band">Kind of band around the diagonal.</param>
/// <param name="Left">Keys before the position that the band shows; null for all.</param>
/// <param name="Right">Keys after the position that the band shows; null for all.</param>
/// <param name="Chunk">Keys in a chunk; null for no chunks.</param>
internal readonly record struct MaskTerms(Alignment? Alignment, MaskBand Band, long? Left, long? Right, long? Chunk)
{
    public static string Name(Alignment? alignment) => alignment switch
    {
        FlashAttention.Alignment.TopLeft => ", top-left",
        FlashAttention.Alignment.BottomRight => ", bottom-right",
        _ => string.Empty,
    };

    public static Mask Combine(Mask first, Mask second)
    {
        MaskTerms a = first.Terms, b = second.Terms;
        if (a.Alignment is { } left && b.Alignment is { } right && left != right)
        {
            ThrowCannotCombine(first, second, "their alignments differ");
        }

        if (a.Chunk is { } size && b.Chunk is { } other && size != other)
        {
            ThrowCannotCombine(first, second, "the sizes of their chunks differ");
        }

        MaskBand band = a.Band == MaskBand.None ? b.Band : b.Band == MaskBand.None || a.Band == b.Band ? a.Band : MaskBand.Window;
        MaskTerms terms = new(a.Alignment ?? b.Alignment, band, Least(a.Left, b.Left), Least(a.Right, b.Right), a.Chunk ?? b.Chunk);
        return terms.ToMask();
    }

    /// <summary>The keys that a query sees are [First, End).</summary>
    public (long First, long End) VisibleRange(long query, long lengthQ, long lengthKv)
    {
        long position = query + (Alignment == FlashAttention.Alignment.BottomRight ? lengthKv - lengthQ : 0);
        long first = Left is { } left && left < position ? position - left : 0;
        long end = Right is { } right && right < lengthKv - position ? position + right + 1 : lengthKv;
        if (Chunk is { } size)
        {
            // Floor division: positions before key 0 lie in chunks of their own.
            long chunk = (position - (((position % size) + size) % size)) / size;
            first = Math.Max(first, chunk * size);
            end = Math.Min(end, size > lengthKv - (chunk * size) ? lengthKv : (chunk + 1) * size);
        }

        return (first, Math.Max(first, Math.Min(end, lengthKv)));
    }

    public unsafe void CopyTo(fa_attention_options* native)
    {
        bool topLeft = Alignment != FlashAttention.Alignment.BottomRight;
        if (Alignment is null && (Band != MaskBand.None || Chunk is not null))
        {
            ThrowWithoutAlignment();
        }

        // Chunks alone are top-left without a band; for bottom-right ones the band is a window that shows everything.
        native->mask = Band switch
        {
            MaskBand.Causal => topLeft ? fa_mask.FA_MASK_CAUSAL_TOP_LEFT : fa_mask.FA_MASK_CAUSAL_BOTTOM_RIGHT,
            MaskBand.Window => topLeft ? fa_mask.FA_MASK_WINDOW_TOP_LEFT : fa_mask.FA_MASK_WINDOW_BOTTOM_RIGHT,
            _ => topLeft ? fa_mask.FA_MASK_NONE : fa_mask.FA_MASK_WINDOW_BOTTOM_RIGHT,
        };
        if (native->mask is fa_mask.FA_MASK_WINDOW_TOP_LEFT or fa_mask.FA_MASK_WINDOW_BOTTOM_RIGHT)
        {
            native->window_left = Left ?? -1;
            native->window_right = Right ?? -1;
        }

        native->chunk = Chunk ?? 0;
    }

    private static long? Least(long? a, long? b) => a is null ? b : b is null ? a : Math.Min(a.Value, b.Value);

    [DoesNotReturn]
    private static void ThrowCannotCombine(Mask first, Mask second, string reason) =>
        throw new ArgumentException($"mask: '{first}' cannot be combined with '{second}': {reason}.");

    [DoesNotReturn]
    private void ThrowWithoutAlignment() => throw new ArgumentException(
        $"options.Mask: expected an alignment for '{ToMask()}', got none: name it, or combine the mask with Mask.Causal(alignment).", "options");

    private Mask ToMask()
    {
        Mask band = Band switch
        {
            MaskBand.Causal => Mask.Causal(Alignment!.Value),
            MaskBand.Window => new WindowMask(Left, Right, Alignment),
            _ => Mask.None,
        };
        if (Chunk is not { } size)
        {
            return band;
        }

        ChunkMask chunk = new(size, Alignment);
        return Band == MaskBand.None ? chunk : new CombinedMask(band, chunk);
    }
}
