using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace FlashAttention.Interop;

/// <summary>The one place where a native status becomes an exception.</summary>
internal static unsafe class NativeStatus
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void ThrowIfFailed(fa_status status)
    {
        if (status != fa_status.FA_STATUS_OK)
        {
            Throw(status);
        }
    }

    /// <summary>The thread's last native message; call it before any other native call on this thread.</summary>
    public static string LastMessage() => Utf8(NativeMethods.fa_last_error_message());

    /// <summary>A string that native code owns.</summary>
    public static string Utf8(byte* text) => Marshal.PtrToStringUTF8((nint)text) ?? string.Empty;

    [DoesNotReturn]
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void Throw(fa_status status)
    {
        string message = LastMessage();
        if (message.Length == 0)
        {
            message = Utf8(NativeMethods.fa_status_name(status));
        }

        throw new FlashAttentionException((AttentionStatus)(int)status, message);
    }
}
