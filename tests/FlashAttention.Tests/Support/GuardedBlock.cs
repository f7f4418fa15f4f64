using System.Runtime.InteropServices;
using FlashAttention.Interop;

namespace FlashAttention.Tests;

/// <summary>Memory for a call, with guard bands before and after and a host image that shows afterwards which bytes changed. On CUDA the whole image, guards
/// included, is copied to the device before the call and back after it.</summary>
internal sealed unsafe class GuardedBlock : IDisposable
{
    /// <summary>Bytes of guard on each side: more than any vector or bulk copy may overshoot.</summary>
    public const int GuardBytes = 1024;

    private readonly TestDevice device;
    private readonly byte* host;
    private readonly long imageBytes;
    private byte* deviceImage;
    private byte[] snapshot = [];

    /// <param name="device">Where the block lives.</param>
    /// <param name="bytes">Usable bytes.</param>
    /// <param name="format">Its poison fills the whole block.</param>
    public GuardedBlock(TestDevice device, long bytes, ElementFormat format)
    {
        this.device = device;
        Bytes = bytes;
        imageBytes = (bytes + 2 * GuardBytes + 63) / 64 * 64;
        host = (byte*)NativeMemory.AlignedAlloc((nuint)imageBytes, 64);
        for (long at = 0; at < imageBytes; at += format.Bytes)
        {
            format.WriteBits(host + at, format.Poison);
        }
        if (device.IsCuda)
        {
            void* pointer;
            NativeCall.Check(NativeMethods.fa_memory_allocate(device.Handle, (ulong)imageBytes, &pointer));
            deviceImage = (byte*)pointer;
        }
    }

    public long Bytes { get; }

    /// <summary>First usable byte of the host image.</summary>
    public byte* Host => host + GuardBytes;

    /// <summary>First usable byte as the call must see it.</summary>
    public byte* Address => (device.IsCuda ? deviceImage : host) + GuardBytes;

    /// <summary>Remembers the image and makes it visible to the device.</summary>
    public void BeforeCall()
    {
        snapshot = new ReadOnlySpan<byte>(host, checked((int)imageBytes)).ToArray();
        if (device.IsCuda)
        {
            NativeCall.Check(NativeMethods.fa_memory_copy(device.Handle, deviceImage, TestDevice.Cpu.Handle, host, (ulong)imageBytes, 0));
            NativeCall.Check(NativeMethods.fa_device_synchronize(device.Handle));
        }
    }

    /// <summary>Brings the image back from the device; the caller has synchronised it.</summary>
    public void AfterCall()
    {
        if (device.IsCuda)
        {
            NativeCall.Check(NativeMethods.fa_memory_copy(TestDevice.Cpu.Handle, host, device.Handle, deviceImage, (ulong)imageBytes, 0));
            NativeCall.Check(NativeMethods.fa_device_synchronize(device.Handle));
        }
    }

    /// <summary>Fails unless every byte outside the given outputs is what it was before the call: guards, inputs, room between rows.</summary>
    public void AssertNothingElseWritten(string name, IEnumerable<TensorBuffer> outputs)
    {
        ReadOnlySpan<byte> before = snapshot;
        var now = new ReadOnlySpan<byte>(host, before.Length);
        if (before.SequenceEqual(now))
        {
            return;
        }
        byte[] restored = now.ToArray();
        foreach (TensorBuffer output in outputs)
        {
            if (output.Block == this)
            {
                foreach (long offset in output.ElementByteOffsets())
                {
                    before.Slice((int)(GuardBytes + offset), output.Format.Bytes).CopyTo(restored.AsSpan((int)(GuardBytes + offset)));
                }
            }
        }
        int same = before.CommonPrefixLength(restored);
        Assert.That(same, Is.EqualTo(before.Length),
            $"{name}: byte {same - GuardBytes} of a block of {Bytes} was written and belongs to no output (negative or past the end: a guard band)");
    }

    /// <summary>Fails unless the whole block is what it was before the call.</summary>
    public void AssertUnchanged(string name) => AssertNothingElseWritten(name, []);

    public void Dispose()
    {
        NativeMemory.AlignedFree(host);
        if (deviceImage != null)
        {
            NativeMethods.fa_memory_free(device.Handle, deviceImage);
            deviceImage = null;
        }
    }
}
