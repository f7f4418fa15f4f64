// The CPU backend beside libtorch's fused attention, on the same memory in one process: results compared first, then calls taken in turn, best of several.
// Usage: FlashAttention.Peers [--layout bshd|bhsd] [--threads N] [--rounds N] [--case SxD]...   (defaults: bshd, 2, 5, 2048x128 and 4096x64; batch 1, 8 heads)
// Prints GFLOP/s per second of wall clock and per second of processor time of the whole process (comparable on a busy machine), forward 4 H S^2 d FLOPs and
// backward 2.5 times that, and the machine's peak rate of multiply-adds. Exit code 1 if the two disagree.
using FlashAttention.Peers;

Arguments? arguments = Arguments.Parse(args, out string error);
if (arguments is null)
{
    Console.Error.WriteLine(error);
    return 2;
}

FlashAttention.FlashAttentionNative.CpuThreadCount = arguments.Threads;
TorchSharp.torch.set_num_threads(arguments.Threads);
TorchSharp.torch.random.manual_seed(1);
Console.WriteLine($"{DateTime.UtcNow:yyyy-MM-dd HH:mm} UTC, libtorch {TorchSharp.torch.__version__}, {arguments.Threads} threads, layout {arguments.Layout}, "
    + $"best of {arguments.Rounds}; GFLOP/s (per second of processor time)");
Console.WriteLine($"{"shape",-16}{"type",-10}{"forward",16}{"libtorch",16}{"backward",16}{"libtorch",16}{"FMA peak",10}   "
    + "difference o, grad_q, grad_k, grad_v");
bool agree = true;
foreach ((int length, int headDim) in arguments.Cases)
{
    foreach (FlashAttention.DType type in new[] { FlashAttention.DType.Float32, FlashAttention.DType.Float16, FlashAttention.DType.BFloat16 })
    {
        using PeerCase peerCase = new(length, headDim, type, arguments.Layout);
        agree &= peerCase.Run(arguments.Rounds, arguments.Threads);
    }
}

return agree ? 0 : 1;
