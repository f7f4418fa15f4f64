using System.Text.Json;
using FlashAttention.Cli.Explain;

namespace FlashAttention.Cli.Tests;

/// <summary>The numbers of "explain" against values worked out by hand, and against the native library's totals.</summary>
internal sealed class ExplainTests
{
    /// <summary>Batch 2, 4 query heads on 2, 3 queries, 5 keys, dim 8, dim_v 6, fp16, no mask, tiles of 2 queries and 4 keys.</summary>
    private static readonly CostInput Small = new(2, 4, 2, 3, 5, 8, 6, 2, 2 * 4 * 3 * 5);

    [Test]
    public void ForwardByHand()
    {
        CostStep[] steps = CostModel.Forward(Small, tileQ: 2);
        // 24 query rows, 20 key rows, 120 pairs; keys and values streamed once per tile of 2 queries: 120 / 2 = 60 rows.
        Assert.Multiple(() =>
        {
            Assert.That(steps[0].Naive, Is.EqualTo(new StepCost(2 * 120 * 8, 0, (24 + 20) * 8 * 2, 240)));
            Assert.That(steps[0].Fused, Is.EqualTo(new StepCost(1920, 0, (24 + 60) * 8 * 2, 0)));
            Assert.That(steps[1].Naive, Is.EqualTo(new StepCost(0, 120, 240, 240)));
            Assert.That(steps[1].Fused, Is.EqualTo(new StepCost(0, 120, 0, 0)));
            Assert.That(steps[2].Naive, Is.EqualTo(new StepCost(2 * 120 * 6, 0, 240 + (20 * 6 * 2), 24 * 6 * 2)));
            Assert.That(steps[2].Fused, Is.EqualTo(new StepCost(1440, 0, 60 * 6 * 2, 288)));
            Assert.That(steps[3].Fused, Is.EqualTo(new StepCost(0, 0, 0, 24 * 4)));
            Assert.That(CostModel.NaiveScratchBytes(Small, backward: false), Is.EqualTo(480));
        });
    }

    [Test]
    public void BackwardByHand()
    {
        CostStep[] steps = CostModel.Backward(Small, tileKv: 4);
        StepCost naive = steps.Aggregate(StepCost.Zero, (sum, step) => sum + step.Naive);
        StepCost fused = steps.Aggregate(StepCost.Zero, (sum, step) => sum + step.Fused);
        Assert.Multiple(() =>
        {
            // dV and dP: 2 * 120 * 6 each; dQ and dK: 2 * 120 * 8 each; the fused form computes S again.
            Assert.That(naive.Flops, Is.EqualTo(2880 + 3840));
            Assert.That(fused.Flops, Is.EqualTo(2880 + 3840 + 1920));
            Assert.That((naive.Exponentials, fused.Exponentials), Is.EqualTo((0.0, 120.0)));
            // Seven times a 120 element matrix, and q, dq, o, do (24 rows of 14, twice), k, dk, v, dv (20 rows of 14, twice).
            Assert.That(naive.Bytes, Is.EqualTo((7 * 240) + (2 * 24 * 14 * 2) + (2 * 20 * 14 * 2)));
            // 30 streamed rows: q and do in fp16, dq in fp32 read and written; delta written, LSE read.
            Assert.That(fused.Bytes, Is.EqualTo((2 * 24 * 14 * 2) + (2 * 20 * 14 * 2) + (30 * 14 * 2) + (30 * 8 * 4 * 2) + (2 * 24 * 4)));
            Assert.That(CostModel.NaiveScratchBytes(Small, backward: true), Is.EqualTo(720));
        });
    }

    [Test]
    public void CausalFlopsByHand()
    {
        // 4 queries, 6 keys, bottom-right: 3 + 4 + 5 + 6 = 18 pairs; top-left: 1 + 2 + 3 + 4 = 10.
        Assert.Multiple(() =>
        {
            Assert.That(FusedFlops("causal"), Is.EqualTo(4.0 * 18 * 32));
            Assert.That(FusedFlops("causal-top-left"), Is.EqualTo(4.0 * 10 * 32));
            Assert.That(FusedFlops("none"), Is.EqualTo(4.0 * 24 * 32));
        });

        static double FusedFlops(string mask) => CliRunner
            .RunLine($"explain --heads 1 --len-q 4 --len-kv 6 --dim 32 --mask {mask} --pass forward --json").Json()
            .GetProperty("passes")[0].GetProperty("total").GetProperty("fused").GetProperty("flops").GetDouble();
    }

    [Test]
    public void TotalsAreThoseOfTheLibrary([Values("--device cpu", "--assume-cc 80", "--assume-cc 90 --assume-sms 132")] string device,
        [Values("none", "causal")] string mask)
    {
        bool gpu = device.Contains("cc");
        JsonElement json = CliRunner
            .RunLine($"explain --batch 2 --heads 8 --kv-heads 2 --len-q 1000 --len-kv 1500 --dim 64 --mask {mask} {device} --json").Json();
        foreach (JsonElement pass in json.GetProperty("passes").EnumerateArray().Where(each => each.GetProperty("supported").GetBoolean()))
        {
            AttentionPlan plan = Attention.Describe(new AttentionProblem
            {
                Pass = pass.GetProperty("pass").GetString() == "backward" ? AttentionPass.Backward : AttentionPass.Forward,
                Device = gpu ? Device.Cuda(0) : Device.Cpu,
                DType = DType.Float16,
                Batch = 2,
                HeadsQ = 8,
                HeadsKv = 2,
                LengthQ = 1000,
                LengthKv = 1500,
                HeadDim = 64,
                Options = new AttentionOptions { Mask = mask == "none" ? Mask.None : Mask.Causal(Alignment.BottomRight) },
                AssumedComputeCapability = !gpu ? 0 : device.Contains("90") ? 90 : 80,
                AssumedMultiprocessorCount = device.Contains("132") ? 132 : 0,
            });
            JsonElement naive = pass.GetProperty("total").GetProperty("naive"), fused = pass.GetProperty("total").GetProperty("fused");
            Assert.Multiple(() =>
            {
                Assert.That(pass.GetProperty("plan").GetProperty("kernel_name").GetString(), Is.EqualTo(plan.KernelName));
                Assert.That(fused.GetProperty("flops").GetDouble(), Is.EqualTo(plan.Flops).Within(1e-9).Percent);
                Assert.That(fused.GetProperty("exponentials").GetDouble(), Is.EqualTo(plan.Exponentials));
                Assert.That(Bytes(naive), Is.EqualTo(plan.UnfusedBytes).Within(1e-9).Percent);
                Assert.That(Bytes(fused), Is.EqualTo(plan.TiledBytes).Within(1e-9).Percent);
                Assert.That(pass.GetProperty("naive_scratch_bytes").GetDouble(), Is.EqualTo(plan.UnfusedScratchBytes));
            });
        }

        static double Bytes(JsonElement cost) => cost.GetProperty("bytes_read").GetDouble() + cost.GetProperty("bytes_written").GetDouble();
    }

    [Test]
    public void RooflineOfAnH100()
    {
        DevicePeaks peaks = Roofline.OfComputeCapability(90, 132)!;
        RooflineTimes times = Roofline.Times(peaks, 989.4e12, 132 * 1.83e9 * 16 / 2, 3350e9 / 4);
        Assert.Multiple(() =>
        {
            Assert.That((times.Tensor, times.Exponential, times.Memory), Is.EqualTo((1.0, 0.5, 0.25)).Within(1e-12));
            Assert.That((times.Bound, times.Limit), Is.EqualTo((1.0, "tensor cores")));
            Assert.That(Roofline.OfComputeCapability(90, 66)!.TensorFlops, Is.EqualTo(peaks.TensorFlops / 2));
            Assert.That(Roofline.OfComputeCapability(70, null), Is.Null);
            Assert.That(Roofline.OfProduct("NVIDIA H100 80GB HBM3")!.Name, Is.EqualTo("H100"));
            Assert.That(Roofline.OfProduct("NVIDIA A100-SXM4-80GB")!.Name, Is.EqualTo("A100"));
            Assert.That(Roofline.OfProduct("NVIDIA L40S")!.Name, Is.EqualTo("L40S"));
            Assert.That(Roofline.OfProduct("AMD EPYC"), Is.Null);
        });
    }

    [Test]
    public void UnsupportedSaysWhy()
    {
        CliResult result = CliRunner.RunLine("explain --dim 64 --dtype float32 --assume-cc 80");
        Assert.That((result.Code, result.Out.Contains("not computed: ")), Is.EqualTo((ExitCode.Failed, true)), result.Out);
        Assert.That(CliRunner.RunLine("explain --len-q 512").Out, Does.Contain("softmax").And.Contain("dS = P").And.Contain("tiles"));
    }
}
