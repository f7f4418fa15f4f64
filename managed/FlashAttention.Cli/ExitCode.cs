namespace FlashAttention.Cli;

/// <summary>What the process tells its caller.</summary>
internal enum ExitCode
{
    /// <summary>Everything asked for was done.</summary>
    Ok = 0,

    /// <summary>A check failed, or a computation did.</summary>
    Failed = 1,

    /// <summary>The command line or an input file is wrong; nothing was computed or written.</summary>
    Usage = 2,

    /// <summary>The device, or the native library itself, is not there.</summary>
    DeviceUnavailable = 3,

    /// <summary>Stopped by Ctrl-C (128 + SIGINT).</summary>
    Cancelled = 130,
}
