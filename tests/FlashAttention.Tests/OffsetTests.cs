using FlashAttention.Interop;

namespace FlashAttention.Tests;

/// <summary>Elements more than 2^31 apart are found: offsets are 64-bit. Only the two ends of a large allocation are touched, so this needs little memory on
/// the CPU and is quick everywhere.</summary>
[TestFixtureSource(typeof(TestDevice), nameof(TestDevice.Wanted))]
public sealed unsafe class OffsetTests(TestDevice device) : DeviceFixture(device)
{
    /// <summary>Elements between the two batch entries.</summary>
    private const long BatchStride = (1L << 31) + 64;

    /// <summary>Elements set aside for one batch entry of one tensor.</summary>
    private const long Slot = 1 << 16;

    [Test]
    public void BatchEntriesMoreThan2To31ElementsApart()
    {
        var problem = new ProblemCase
        {
            Format = ElementFormat.Float16,
            Batch = 2,
            HeadsQ = 2,
            HeadsKv = 1,
            LenQ = 70,
            LenKv = 90,
            HeadDim = 64,
            HeadDimV = 64,
            Mask = MaskKind.BottomRight,
            Deterministic = true,
            Seed = 231,
        };
        using var near = new AttentionCall(Device, problem, AttentionInputs.Create(problem));
        near.Forward();
        near.Backward();

        void* memory;
        fa_status status = NativeMethods.fa_memory_allocate(Device.Handle, (ulong)(BatchStride + 8 * Slot) * 2, &memory);
        if (status == fa_status.FA_STATUS_OUT_OF_MEMORY)
        {
            Assert.Ignore("The device has no room for 2^31 elements: " + NativeCall.LastMessage);
        }
        NativeCall.Check(status);
        try
        {
            TensorBuffer[] tensors = [near.Q, near.K, near.V, near.O, near.GradO, near.GradQ, near.GradK, near.GradV];
            var first = (nint)memory;
            fa_tensor[] far = tensors.Select((tensor, slot) => FarAway(tensor, (byte*)first + slot * Slot * 2)).ToArray();
            foreach (int input in new[] { 0, 1, 2, 4 })
            {
                Copy(tensors[input], far[input], toDevice: true);
            }
            near.RunOn(far);
            foreach (int output in new[] { 3, 5, 6, 7 })
            {
                uint[] expected = tensors[output].LoadBits();
                tensors[output].Poison();
                Copy(tensors[output], far[output], toDevice: false);
                Assert.That(tensors[output].LoadBits(), Is.EqualTo(expected), $"tensor {output}");
            }
        }
        finally
        {
            NativeCall.Check(NativeMethods.fa_memory_free(Device.Handle, memory));
        }
    }

    private static fa_tensor FarAway(TensorBuffer tensor, byte* address)
    {
        fa_tensor far = tensor.Native;
        far.data = address;
        far.strides[0] = BatchStride;
        return far;
    }

    // Both sides are dense within a batch entry.
    private void Copy(TensorBuffer tensor, fa_tensor far, bool toDevice)
    {
        ulong bytes = (ulong)tensor.Count / 2 * 2; // half of the elements, two bytes each
        for (int b = 0; b < 2; b++)
        {
            byte* here = tensor.Block.Host + b * (long)bytes;
            byte* there = (byte*)far.data + b * BatchStride * 2;
            NativeCall.Check(toDevice
                ? NativeMethods.fa_memory_copy(Device.Handle, there, TestDevice.Cpu.Handle, here, bytes, 0)
                : NativeMethods.fa_memory_copy(TestDevice.Cpu.Handle, here, Device.Handle, there, bytes, 0));
        }
        NativeCall.Check(NativeMethods.fa_device_synchronize(Device.Handle));
    }
}
