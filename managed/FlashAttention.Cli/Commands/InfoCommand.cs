using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;
using FlashAttention.Cli.Options;
using FlashAttention.Cli.Output;

namespace FlashAttention.Cli.Commands;

/// <summary>flashattn info: what is here.</summary>
internal static class InfoCommand
{
    private static readonly int[] Dims = [64, 128, 256, 512];

    public static ExitCode Run(InfoOptions options, CliConsole console)
    {
        List<Device> devices = [Device.Cpu];
        for (int i = 0; i < Device.Count(DeviceType.Cuda); i++)
        {
            devices.Add(Device.Cuda(i));
        }
        InfoReport report = new()
        {
            CliVersion = HelpPage.ProductVersion,
            Runtime = RuntimeInformation.FrameworkDescription,
            OperatingSystem = $"{RuntimeInformation.OSDescription} {RuntimeInformation.ProcessArchitecture}",
            LibraryVersion = FlashAttentionNative.Version,
            AbiVersion = FlashAttentionNative.AbiVersion,
            LibraryBuild = FlashAttentionNative.BuildInfo,
            LibraryPath = FlashAttentionNative.Trace().FirstOrDefault(step => step.Outcome == NativeLoadOutcome.Loaded)?.Path ?? string.Empty,
            CpuVectorExtensions = VectorExtensions(),
            Devices = [.. devices.Select(Describe)],
            Kernels = [.. devices.SelectMany(Kernels)],
        };
        console.WriteReport(report, options, CliJson.Default.InfoReport, Write);
        return ExitCode.Ok;
    }

    private static string[] VectorExtensions()
    {
        List<string> names = [];
        void Add(bool present, string name)
        {
            if (present)
            {
                names.Add(name);
            }
        }
        Add(Avx2.IsSupported, "AVX2");
        Add(Fma.IsSupported, "FMA");
        Add(Avx512F.IsSupported, "AVX-512");
        Add(System.Runtime.Intrinsics.Arm.AdvSimd.IsSupported, "NEON");
        return [.. names];
    }

    private static InfoDevice Describe(Device device)
    {
        DeviceInfo info = device.GetInfo();
        string capability = device.Type == DeviceType.Cuda ? $"{info.ComputeCapabilityMajor}.{info.ComputeCapabilityMinor}" : string.Empty;
        return new InfoDevice(device.ToString(), info.Name, capability, info.MultiprocessorCount, info.TotalMemoryBytes, info.L2CacheBytes,
            info.SharedMemoryPerBlockBytes, info.DriverVersion, info.ClockKilohertz);
    }

    private static IEnumerable<InfoKernel> Kernels(Device device)
    {
        DType[] types = device.Type == DeviceType.Cpu ? [DType.Float32, DType.Float16, DType.BFloat16] : [DType.Float16, DType.BFloat16];
        foreach (DType type in types)
        {
            foreach (int dim in Dims)
            {
                yield return new InfoKernel(device.ToString(), OptionParsing.Name(type), dim, Kernel(AttentionPass.Forward), Kernel(AttentionPass.Backward));

                string? Kernel(AttentionPass pass) =>
                    Attention.TryPlan(Problem(device, type, dim, pass), out AttentionPlan? plan, out _) ? plan.KernelName : null;
            }
        }
    }

    private static AttentionProblem Problem(Device device, DType type, int dim, AttentionPass pass) => new()
    {
        Pass = pass,
        Device = device,
        DType = type,
        Batch = 1,
        LengthQ = 2048,
        LengthKv = 2048,
        HeadsQ = 8,
        HeadDim = dim,
        Options = new AttentionOptions { Mask = Mask.Causal(Alignment.BottomRight) },
    };

    private static void Write(InfoReport report, CliConsole console)
    {
        console.WriteLine($"flashattn {report.CliVersion}, {report.Runtime}, {report.OperatingSystem}");
        console.WriteLine($"library   {report.LibraryVersion}, ABI {report.AbiVersion}, {report.LibraryBuild}");
        console.WriteLine($"loaded    {report.LibraryPath}");
        console.WriteLine($"CPU has   {string.Join(", ", report.CpuVectorExtensions)}");
        console.WriteTable(["device", "name", ">compute capability", ">multiprocessors or threads", ">memory", ">L2 or L3"], report.Devices.Select(d => new[]
        {
            d.Device, d.Name, d.ComputeCapability.Length > 0 ? d.ComputeCapability : "-", Format.Integer(d.Multiprocessors), Format.Bytes(d.MemoryBytes),
            d.L2CacheBytes > 0 ? Format.Bytes(d.L2CacheBytes) : "-",
        }));
        if (report.Devices.Length == 1)
        {
            console.WriteLine("No CUDA device: no NVIDIA driver or GPU here, or a library built without CUDA.");
        }
        console.WriteTitle("Which kernel computes what (batch 1, 8 heads, 2048 x 2048, causal)");
        console.WriteTable(["device", "type", ">dim", "forward", "backward"], report.Kernels.Select(kernel => new[]
        {
            kernel.Device, kernel.Dtype, Format.Integer(kernel.Dim), kernel.Forward ?? "-", kernel.Backward ?? "-",
        }));
    }
}
