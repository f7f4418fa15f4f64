using FlashAttention.Interop;

namespace FlashAttention;

/// <summary>Kind of device.</summary>
public enum DeviceType
{
    /// <summary>Host memory, computed by the CPU backend before a call returns. Its only index is 0.</summary>
    Cpu = 0,

    /// <summary>An NVIDIA GPU. Calls queue work on a stream and return.</summary>
    Cuda = 1,
}

/// <summary>A device: where the memory of a call lives and where it is computed.</summary>
/// <param name="Type">Kind of device.</param>
/// <param name="Index">Ordinal among the devices of that kind, from 0; for CUDA the CUDA runtime's.</param>
public readonly record struct Device(DeviceType Type, int Index)
{
    /// <summary>Host memory and the CPU backend.</summary>
    public static Device Cpu => new(DeviceType.Cpu, 0);

    /// <summary>An NVIDIA GPU. Whether it exists is checked by the first call that uses it.</summary>
    /// <param name="index">The CUDA runtime's device ordinal.</param>
    /// <returns>The device.</returns>
    public static Device Cuda(int index) => new(DeviceType.Cuda, index);

    /// <summary>Number of devices of a kind: 1 for the CPU; for CUDA 0 where there is no driver or no GPU.</summary>
    /// <param name="type">Kind of device.</param>
    /// <returns>Number of devices.</returns>
    /// <exception cref="FlashAttentionException"><paramref name="type"/> is no defined value, or the library could not be loaded.</exception>
    public static unsafe int Count(DeviceType type)
    {
        int count = 0;
        NativeStatus.ThrowIfFailed(NativeMethods.fa_device_count((fa_device_type)(int)type, &count));
        return count;
    }

    /// <summary>What the device is and can do.</summary>
    /// <returns>A snapshot.</returns>
    /// <exception cref="FlashAttentionException">There is no such device, or the library could not be loaded.</exception>
    public unsafe DeviceInfo GetInfo()
    {
        fa_device_info native = default;
        native.struct_size = (uint)sizeof(fa_device_info);
        NativeStatus.ThrowIfFailed(NativeMethods.fa_device_get_info(ToNative(), &native));
        return new DeviceInfo
        {
            Device = this,
            Name = NativeStatus.Utf8(native.name),
            ComputeCapabilityMajor = native.compute_capability_major,
            ComputeCapabilityMinor = native.compute_capability_minor,
            MultiprocessorCount = native.multiprocessor_count,
            TotalMemoryBytes = checked((long)native.total_memory_bytes),
            L2CacheBytes = checked((long)native.l2_cache_bytes),
            SharedMemoryPerBlockBytes = checked((long)native.shared_memory_per_block_bytes),
            DriverVersion = native.driver_version,
            ClockKilohertz = native.clock_khz,
        };
    }

    /// <summary>Waits until all work queued on the device by this process has finished.</summary>
    /// <exception cref="FlashAttentionException">Earlier asynchronous work failed, or there is no such device.</exception>
    public void Synchronize() => NativeStatus.ThrowIfFailed(NativeMethods.fa_device_synchronize(ToNative()));

    /// <summary>"cpu" or "cuda:index".</summary>
    /// <returns>Text.</returns>
    public override string ToString() => Type switch
    {
        DeviceType.Cpu when Index == 0 => "cpu",
        DeviceType.Cpu => $"cpu:{Index}",
        DeviceType.Cuda => $"cuda:{Index}",
        _ => $"device type {(int)Type}:{Index}",
    };

    internal fa_device ToNative() => new() { type = (fa_device_type)(int)Type, index = Index };
}

/// <summary>What a device is and can do.</summary>
public sealed record DeviceInfo
{
    /// <summary>The device described.</summary>
    public required Device Device { get; init; }

    /// <summary>Product name; for the CPU its brand string and the instruction set in use.</summary>
    public required string Name { get; init; }

    /// <summary>Compute capability, e.g. 9 for Hopper; 0 for the CPU.</summary>
    public required int ComputeCapabilityMajor { get; init; }

    /// <summary>Second part of the compute capability; 0 for the CPU.</summary>
    public required int ComputeCapabilityMinor { get; init; }

    /// <summary>Streaming multiprocessors; for the CPU the number of threads that calls use now.</summary>
    public required int MultiprocessorCount { get; init; }

    /// <summary>Device memory (CPU: physical memory) in bytes.</summary>
    public required long TotalMemoryBytes { get; init; }

    /// <summary>Last-level cache in bytes; 0 if unknown.</summary>
    public required long L2CacheBytes { get; init; }

    /// <summary>Largest shared memory of one thread block in bytes; 0 for the CPU.</summary>
    public required long SharedMemoryPerBlockBytes { get; init; }

    /// <summary>CUDA driver version as 1000 · major + 10 · minor; 0 for the CPU.</summary>
    public required int DriverVersion { get; init; }

    /// <summary>Nominal multiprocessor clock in kHz; 0 if unknown.</summary>
    public required int ClockKilohertz { get; init; }
}
