using System.Runtime.InteropServices;
using FlashAttention.Interop;

namespace FlashAttention.Tests;

/// <summary>Status and message of raw calls into the library.</summary>
internal static unsafe class NativeCall
{
    public static string LastMessage => Marshal.PtrToStringUTF8((nint)NativeMethods.fa_last_error_message()) ?? "";

    /// <summary>Fails the test if a call that must succeed did not.</summary>
    public static void Check(fa_status status)
    {
        if (status != fa_status.FA_STATUS_OK)
        {
            Assert.Fail($"{status}: {LastMessage}");
        }
    }
}
