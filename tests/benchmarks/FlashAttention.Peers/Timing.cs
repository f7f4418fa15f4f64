using System.Diagnostics;

namespace FlashAttention.Peers;

/// <summary>The best wall-clock and processor time of a call.</summary>
internal sealed class Timing
{
    /// <summary>Worker threads of a library spin for a while after a call: they must not take a processor from the next one.</summary>
    private const int PauseMilliseconds = 250;

    /// <summary>A call that takes longer is measured once.</summary>
    private const double LongSeconds = 5;

    private double wallSeconds = double.MaxValue;
    private double processorSeconds = double.MaxValue;

    public void Measure(Action call)
    {
        if (wallSeconds is > LongSeconds and < double.MaxValue)
        {
            return;
        }

        Thread.Sleep(PauseMilliseconds);
        TimeSpan processorStart = Environment.CpuUsage.TotalTime;
        long start = Stopwatch.GetTimestamp();
        call();
        wallSeconds = Math.Min(wallSeconds, Stopwatch.GetElapsedTime(start).TotalSeconds);
        processorSeconds = Math.Min(processorSeconds, (Environment.CpuUsage.TotalTime - processorStart).TotalSeconds);
    }

    public string Text(double gflop) => $"{gflop / wallSeconds:F0} ({gflop / processorSeconds:F0})";
}
