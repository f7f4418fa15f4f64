namespace FlashAttention;

/// <summary>Why a call failed: the status codes of the native library, and one for the library itself.</summary>
public enum AttentionStatus
{
    /// <summary>The native library could not be loaded, or speaks another binary interface than this assembly.</summary>
    LibraryUnavailable = -1,

    /// <summary>Success; no exception carries it.</summary>
    Ok = 0,

    /// <summary>An argument is wrong by itself or contradicts another one; the message names it.</summary>
    InvalidArgument = 1,

    /// <summary>The arguments are meaningful, but no kernel of this build and device computes this problem; the message says which would.</summary>
    Unsupported = 2,

    /// <summary>The workspace is smaller than the pass needs.</summary>
    WorkspaceTooSmall = 3,

    /// <summary>Host or device memory could not be allocated.</summary>
    OutOfMemory = 4,

    /// <summary>The device does not exist here: no driver, no such index, or a library built without this backend.</summary>
    DeviceUnavailable = 5,

    /// <summary>The device or its driver reported an error; the message carries the driver's own words.</summary>
    DeviceError = 6,

    /// <summary>A defect of the native library.</summary>
    InternalError = 7,
}

/// <summary>A call of the native library failed, or the library could not be loaded.</summary>
/// <remarks>The message is the native one: it names the argument, what was expected and what came. What only managed code can see (the rank of a span, the
/// length of an lse buffer, a disposed object) is reported by <see cref="ArgumentException"/> and <see cref="ObjectDisposedException"/> instead.</remarks>
public sealed class FlashAttentionException : Exception
{
    /// <summary>Makes an exception.</summary>
    /// <param name="status">Why the call failed.</param>
    /// <param name="message">What happened.</param>
    public FlashAttentionException(AttentionStatus status, string message)
        : base(message) => Status = status;

    /// <summary>Makes an exception with a cause.</summary>
    /// <param name="status">Why the call failed.</param>
    /// <param name="message">What happened.</param>
    /// <param name="innerException">Cause; null if there is none.</param>
    public FlashAttentionException(AttentionStatus status, string message, Exception? innerException)
        : base(message, innerException) => Status = status;

    /// <summary>Why the call failed.</summary>
    public AttentionStatus Status { get; }
}
