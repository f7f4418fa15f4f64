using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;

namespace FlashAttention;

/// <summary>Checks of what native code cannot see. Every message names the argument, what was expected and what came; the throwing parts stay out of
/// line.</summary>
internal static class Ensure
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Rank4(int rank, string name)
    {
        if (rank != 4)
        {
            ThrowRank(rank, name);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void AtLeast(long actual, long expected, string name)
    {
        if (actual < expected)
        {
            ThrowLength(actual, $"at least {expected}", name);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Exactly(long actual, long expected, string name)
    {
        if (actual != expected)
        {
            ThrowLength(actual, expected.ToString(), name);
        }
    }

    /// <summary>The lse-shaped arguments: one number for each (batch, head, query).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void LseLength(long actual, long batch, long heads, long queries, string name)
    {
        if (actual != batch * heads * queries)
        {
            ThrowLseLength(actual, batch, heads, queries, name);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void NotNegative(long value, string name)
    {
        if (value < 0)
        {
            ThrowNegative(value, name);
        }
    }

    public static void SameDevice(Device expected, Device actual, string name)
    {
        if (expected != actual)
        {
            ThrowDevice(expected, actual, name);
        }
    }

    [DoesNotReturn]
    private static void ThrowRank(int rank, string name) =>
        throw new ArgumentException($"{name}: expected rank 4 (batch, sequence, heads, head_dim), got rank {rank}.", name);

    [DoesNotReturn]
    private static void ThrowLength(long actual, string expected, string name) =>
        throw new ArgumentException($"{name}: expected {expected} elements, got {actual}.", name);

    [DoesNotReturn]
    private static void ThrowLseLength(long actual, long batch, long heads, long queries, string name) =>
        throw new ArgumentException(
            $"{name}: expected {batch * heads * queries} elements (batch {batch} x heads_q {heads} x len_q {queries}), got {actual}.", name);

    [DoesNotReturn]
    private static void ThrowNegative(long value, string name) =>
        throw new ArgumentOutOfRangeException(name, value, $"{name}: expected a number of at least 0, got {value}.");

    [DoesNotReturn]
    private static void ThrowDevice(Device expected, Device actual, string name) =>
        throw new ArgumentException($"{name}: expected {expected}, the device of the other arguments, got {actual}.", name);
}
