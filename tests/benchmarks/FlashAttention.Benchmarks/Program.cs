// Measures with BenchmarkDotNet; arguments are BenchmarkDotNet's own, e.g. --filter "*Forward*".
// --check instead measures only the allocations of one thread, in a second, and exits with 1 if a call in steady state allocates a byte.
using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Jobs;
using BenchmarkDotNet.Running;
using BenchmarkDotNet.Toolchains.InProcess.NoEmit;
using FlashAttention.Benchmarks;

if (args is ["--check"])
{
    return AllocationCheck.Run();
}

// In process: BenchmarkDotNet's own child projects know nothing of this repository's build settings and of where the native library is.
IConfig config = DefaultConfig.Instance.AddJob(Job.ShortRun.WithIterationCount(10).WithToolchain(InProcessNoEmitToolchain.Instance));
BenchmarkSwitcher.FromAssembly(typeof(CallOverhead).Assembly).Run(args, config);
return 0;
