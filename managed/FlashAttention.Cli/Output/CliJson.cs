using System.Text.Json;
using System.Text.Json.Serialization;

namespace FlashAttention.Cli.Output;

/// <summary>Result of "run".</summary>
internal sealed record RunReport
{
    public required string Device { get; init; }
    public required string Dtype { get; init; }
    public required long[] Q { get; init; }
    public required long[] K { get; init; }
    public required long[] V { get; init; }
    public required string Mask { get; init; }

    /// <summary>What else modifies the scores, in words; empty if nothing does.</summary>
    public required string Scores { get; init; }
    public required string Kernel { get; init; }
    public required double ForwardSeconds { get; init; }
    public required double ForwardFlops { get; init; }
    public string? BackwardKernel { get; init; }
    public double? BackwardSeconds { get; init; }
    public double? BackwardFlops { get; init; }
    public required long WorkspaceBytes { get; init; }
    public required double NaiveScratchBytes { get; init; }
    public required string[] Written { get; init; }
}

/// <summary>Result of "demo".</summary>
internal sealed record DemoReport
{
    public required string Device { get; init; }
    public required string Dtype { get; init; }
    public required string Source { get; init; }
    public required int Heads { get; init; }
    public required int HeadDim { get; init; }
    public required int Seed { get; init; }
    public required DemoRow[] Lengths { get; init; }
    public required DemoQuery Query { get; init; }
}

internal sealed record DemoRow
{
    public required int Length { get; init; }
    public required string Kernel { get; init; }
    public required double FusedSeconds { get; init; }
    public required double FusedMaxError { get; init; }
    public required long FusedScratchBytes { get; init; }

    /// <summary>Null where the score matrix would not fit into memory.</summary>
    public double? NaiveSeconds { get; init; }
    public double? NaiveMaxError { get; init; }
    public required long NaiveScratchBytes { get; init; }
    public required double ErrorBound { get; init; }
}

internal sealed record DemoQuery(int Position, string Context, DemoHead[] Heads);

internal sealed record DemoHead(int Head, string LooksFor, DemoKey[] MostAttended);

internal sealed record DemoKey(int Position, double Weight, string Context);

/// <summary>Result of "verify".</summary>
internal sealed record VerifyReport
{
    public required string Device { get; init; }
    public required int Seed { get; init; }
    public required int Passed { get; init; }
    public required int Failed { get; init; }

    /// <summary>Problems that no kernel of the device computes.</summary>
    public required int Unsupported { get; init; }
    public required VerifyCase[] Cases { get; init; }
}

internal sealed record VerifyCase(int Index, string Problem, string Verdict, string? Kernel, string? Detail, VerifyTensor[] Tensors);

/// <summary>Errors of one output: the largest error as a part of what each bound allows (above 1 is a failure).</summary>
internal sealed record VerifyTensor(string Name, bool Passed, double MaxError, double UnitBoundUsed, double NaiveMaxError, double NaiveBoundUsed);

/// <summary>Result of "explain".</summary>
internal sealed record ExplainReport(string Problem, string Device, ExplainPass[] Passes);

internal sealed record ExplainPass
{
    public required string Pass { get; init; }
    public required bool Supported { get; init; }
    public string? WhyNot { get; init; }
    public AttentionPlan? Plan { get; init; }
    public ExplainStep[] Steps { get; init; } = [];
    public ExplainStep? Total { get; init; }
    public double? NaiveScratchBytes { get; init; }
    public ExplainRoofline? Roofline { get; init; }
}

internal sealed record ExplainStep(string Name, string Note, ExplainCost Naive, ExplainCost Fused);

internal sealed record ExplainCost(double Flops, double Exponentials, double BytesRead, double BytesWritten, double? FlopsPerByte);

internal sealed record ExplainRoofline(string Product, double FusedSeconds, string FusedLimit, double NaiveSeconds, string NaiveLimit);

/// <summary>Result of "bench".</summary>
internal sealed record BenchReport
{
    public required string Device { get; init; }
    public required string DeviceName { get; init; }
    public required string LibraryVersion { get; init; }
    public required string LibraryBuild { get; init; }
    public required int CpuThreads { get; init; }
    public required DateTimeOffset Date { get; init; }
    public required BenchCell[] Cells { get; init; }
}

internal sealed record BenchCell
{
    public required string Pass { get; init; }
    public required string Dtype { get; init; }
    public required string Mask { get; init; }

    /// <summary>As in <see cref="RunReport"/>.</summary>
    public required string Scores { get; init; }
    public required int Batch { get; init; }
    public required int Heads { get; init; }
    public required int KvHeads { get; init; }
    public required int Length { get; init; }
    public required int Dim { get; init; }

    /// <summary>Null where no kernel computes the cell; see <see cref="Note"/>.</summary>
    public string? Kernel { get; init; }
    public string? Note { get; init; }
    public int Runs { get; init; }
    public double? MedianSeconds { get; init; }
    public double? MinimumSeconds { get; init; }
    public double? Tflops { get; init; }
    public double? MaxErrorOfBound { get; init; }
    public long? WorkspaceBytes { get; init; }
}

/// <summary>Result of "info".</summary>
internal sealed record InfoReport
{
    public required string CliVersion { get; init; }
    public required string Runtime { get; init; }
    public required string OperatingSystem { get; init; }
    public required string LibraryVersion { get; init; }
    public required int AbiVersion { get; init; }
    public required string LibraryBuild { get; init; }
    public required string LibraryPath { get; init; }
    public required string[] CpuVectorExtensions { get; init; }
    public required InfoDevice[] Devices { get; init; }
    public required InfoKernel[] Kernels { get; init; }
}

internal sealed record InfoDevice(string Device, string Name, string ComputeCapability, int Multiprocessors, long MemoryBytes, long L2CacheBytes,
    long SharedMemoryPerBlockBytes, int DriverVersion, int ClockKilohertz);

/// <summary>Which kernel computes a head dimension on a device; null where none does.</summary>
internal sealed record InfoKernel(string Device, string Dtype, int Dim, string? Forward, string? Backward);

/// <summary>Result of "doctor".</summary>
internal sealed record DoctorReport
{
    public required bool Healthy { get; init; }
    public required string CliVersion { get; init; }
    public required string LibraryFileName { get; init; }
    public required int ExpectedAbiVersion { get; init; }
    public string? LibraryVersion { get; init; }
    public int? AbiVersion { get; init; }
    public string? LibraryBuild { get; init; }
    public required DoctorStep[] Loading { get; init; }
    public required DoctorCheck[] Checks { get; init; }
}

internal sealed record DoctorStep(string Origin, string Path, string Outcome, string Detail);

/// <summary>One check; a device that is absent is no failure.</summary>
internal sealed record DoctorCheck(string Name, bool Passed, string Detail);

/// <summary>"cpu", "sm80", "sm90": as the option --kernel names them.</summary>
internal sealed class KernelFamilyConverter() : JsonStringEnumConverter<KernelFamily>(JsonNamingPolicy.SnakeCaseLower);

[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower, Converters = [typeof(KernelFamilyConverter)],
    NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals)]
[JsonSerializable(typeof(RunReport))]
[JsonSerializable(typeof(DemoReport))]
[JsonSerializable(typeof(VerifyReport))]
[JsonSerializable(typeof(ExplainReport))]
[JsonSerializable(typeof(BenchReport))]
[JsonSerializable(typeof(InfoReport))]
[JsonSerializable(typeof(DoctorReport))]
internal sealed partial class CliJson : JsonSerializerContext;
