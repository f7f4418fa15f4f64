using FlashAttention.Interop;

namespace FlashAttention.Tests;

/// <summary>The operations beside attention: the dropout mask bit by bit, and merging parts, forward and backward, against float64.</summary>
[TestFixtureSource(typeof(TestDevice), nameof(TestDevice.Wanted))]
public sealed unsafe class OperationTests(TestDevice device) : DeviceFixture(device)
{
    [Test]
    public void TheDropoutMaskIsPhilox([Values(0f, 0.1f, 0.5f, 0.999f)] float rate, [Values(1, 4, 37, 130)] int columns, [Values] bool padded)
    {
        long[] sizes = [2, 3, 5, columns];
        long row = padded ? columns + 3 : columns;
        List<GuardedBlock> blocks = [];
        TensorBuffer buffer = TensorStorage.Allocate(Device, ElementFormat.UInt8, [2, 5, 3, columns], [3 * 5 * row, row, 5 * row, 1], 0, blocks);
        buffer.Poison();
        blocks[0].BeforeCall();
        var call = new fa_dropout_mask_params
        {
            struct_size = (uint)sizeof(fa_dropout_mask_params),
            dropout = rate,
            seed = 0xFEDC_BA98_7654_3210,
            offset = 0x8000_0001,
            device = Device.Handle,
            @out = VariantBuffers.Pairs(buffer),
        };
        fa_status status = NativeMethods.fa_attention_dropout_mask(&call);
        SkipIfUnsupported(status, "the dropout mask");
        NativeCall.Check(status);
        NativeCall.Check(NativeMethods.fa_device_synchronize(Device.Handle));
        blocks[0].AfterCall();
        blocks[0].AssertNothingElseWritten("dropout mask", [buffer]);
        uint[] actual = buffer.LoadBits();
        var expected = new uint[actual.Length];
        for (int n = 0; n < expected.Length; n++)
        {
            int pair = n / columns;
            expected[n] = PhiloxOracle.Keeps(rate, 0xFEDC_BA98_7654_3210, 0x8000_0001, pair / (int)sizes[2], pair % (int)sizes[2], n % columns) ? 1u : 0u;
        }
        blocks[0].Dispose();
        Assert.That(actual, Is.EqualTo(expected));
    }

    [Test]
    public void PartsMerge([Values(1, 2, 3, 16)] int parts, [Values("f32", "f16", "bf16")] string partFormat, [Values("f32", "f16", "bf16")] string format,
        [Values] bool gradLse)
    {
        var problem = new MergeProblem(Device, parts, Format(partFormat), Format(format), gradLse);
        using (problem)
        {
            SkipIfUnsupported(problem.Forward(), "merging");
            problem.AssertForward();
            NativeCall.Check(problem.Backward());
            problem.AssertBackward();
        }
    }

    private static ElementFormat Format(string name) =>
        new[] { ElementFormat.Float32, ElementFormat.Float16, ElementFormat.BFloat16 }.Single(format => format.Name == name);

    private void SkipIfUnsupported(fa_status status, string operation)
    {
        if (status == fa_status.FA_STATUS_UNSUPPORTED)
        {
            Assert.That(Device.IsCuda, Is.True, NativeCall.LastMessage);
            Unsupported.Count(Device, operation);
        }
    }
}
