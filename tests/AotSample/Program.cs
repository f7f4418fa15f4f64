using System.Runtime.CompilerServices;
using AotSample;
using FlashAttention;

Console.WriteLine($"FlashAttention {FlashAttentionNative.Version}, {FlashAttentionNative.BuildInfo}");
Console.WriteLine($"dynamic code: {RuntimeFeature.IsDynamicCodeSupported}");

AttentionOptions causal = new() { Mask = Mask.Causal(Alignment.BottomRight) };
bool right = true;
right &= Sample.Check<float>("float", AttentionOptions.Default, x => x);
right &= Sample.Check<float>("float causal", causal, x => x);
right &= Sample.Check<Half>("Half causal", causal, x => (Half)x);
right &= Sample.Check<BFloat16>("BFloat16 causal", causal, x => (BFloat16)x);
right &= Sample.Check<float>("float, every option", Sample.EveryOption(), x => x);
right &= new DeviceSample<float>(Device.Cpu, x => x).Check(causal);
if (Device.Count(DeviceType.Cuda) > 0)
{
    right &= new DeviceSample<Half>(Device.Cuda(0), x => (Half)x).Check(causal);
    right &= new DeviceSample<BFloat16>(Device.Cuda(0), x => (BFloat16)x).Check(causal);
}
else
{
    Console.WriteLine("no CUDA device: its checks are skipped");
}

right &= Sample.CheckErrors();
Console.WriteLine(right ? "all results are right" : "WRONG RESULTS");
return right ? 0 : 1;
