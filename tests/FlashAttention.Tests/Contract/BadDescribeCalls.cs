using FlashAttention.Interop;

namespace FlashAttention.Tests;

/// <summary>Wrong calls of fa_attention_describe.</summary>
internal static unsafe class BadDescribeCalls
{
    private const int Invalid = (int)fa_status.FA_STATUS_INVALID_ARGUMENT;
    private const int Unsupported = (int)fa_status.FA_STATUS_UNSUPPORTED;

    private static BadCall Describe(string name, int status, DescribeChange change, params string[] parts) =>
        new BadCall("describe: " + name, status, parts) { Make = world => world.Describe(change) };

    public static BadCall[] All() =>
    [
        new BadCall("describe: params null", Invalid, ["params", "NULL"]) { Make = _ => WithoutParams() },
        new BadCall("describe: description null", Invalid, ["description", "NULL"]) { Make = _ => WithoutDescription() },
        Describe("struct_size 0", Invalid, (ref p, ref _, ref _) => p.struct_size = 0, "params.struct_size", "got 0"),
        Describe("description.struct_size 0", Invalid, (ref _, ref _, ref d) => d.struct_size = 0, "description.struct_size", "got 0"),
        Describe("description.struct_size too small", Invalid, (ref _, ref _, ref d) => d.struct_size = 16, "description.struct_size", "got 16"),
        Describe("pass unknown", Invalid, (ref p, ref _, ref _) => p.pass = (fa_pass)2, "params.pass", "got 2"),
        Describe("pass negative", Invalid, (ref p, ref _, ref _) => p.pass = (fa_pass)(-1), "params.pass", "got -1"),
        Describe("device type unknown", Invalid, (ref p, ref _, ref _) => p.device.type = (fa_device_type)5, "device.type", "got 5"),
        Describe("q dtype unknown", Invalid, (ref p, ref _, ref _) => p.q.dtype = (fa_dtype)77, "q.dtype", "got 77"),
        Describe("k batch differs", Invalid, (ref p, ref _, ref _) => p.k.sizes[0] = 5, "k.sizes[0]", "got 5"),
        Describe("options.struct_size too small", Invalid, (ref _, ref o, ref _) => o.struct_size = 4, "options.struct_size", "got 4"),
        Describe("assumed capability of a CPU", Invalid, (ref p, ref _, ref _) => Assume(ref p, fa_device_type.FA_DEVICE_CPU, 80, 0),
            "assumed_compute_capability", "80"),
        Describe("assumed capability negative", Invalid, (ref p, ref _, ref _) => Assume(ref p, fa_device_type.FA_DEVICE_CUDA, -1, 0),
            "assumed_compute_capability", "got -1"),
        Describe("assumed capability absurd", Invalid, (ref p, ref _, ref _) => Assume(ref p, fa_device_type.FA_DEVICE_CUDA, 123456, 0),
            "assumed_compute_capability", "123456"),
        Describe("assumed multiprocessors negative", Invalid, (ref p, ref _, ref _) => Assume(ref p, fa_device_type.FA_DEVICE_CUDA, 80, -3),
            "assumed_multiprocessor_count", "got -3"),
        Describe("multiprocessors of no assumed device", Invalid, (ref p, ref _, ref _) => p.assumed_multiprocessor_count = 8,
            "assumed_multiprocessor_count", "got 8"),
        Describe("GPU older than every kernel", Unsupported, (ref p, ref _, ref _) => Assume(ref p, fa_device_type.FA_DEVICE_CUDA, 75, 0), "sm80"),
        Describe("Hopper kernel on an A100", Unsupported,
            (ref p, ref o, ref _) =>
            {
                Assume(ref p, fa_device_type.FA_DEVICE_CUDA, 80, 0);
                o.kernel = fa_kernel.FA_KERNEL_SM90;
            },
            "sm90"),
        Describe("fp32 on CUDA", Unsupported,
            (ref p, ref _, ref _) =>
            {
                Assume(ref p, fa_device_type.FA_DEVICE_CUDA, 90, 0);
                p.q.dtype = p.k.dtype = p.v.dtype = fa_dtype.FA_DTYPE_FLOAT32;
            },
            "float32"),
    ];

    private static void Assume(ref fa_describe_params p, fa_device_type type, int capability, int multiprocessors)
    {
        p.device = new fa_device { type = type };
        p.assumed_compute_capability = capability;
        p.assumed_multiprocessor_count = multiprocessors;
    }

    private static fa_status WithoutParams()
    {
        fa_plan_description description = default;
        description.struct_size = (uint)sizeof(fa_plan_description);
        return NativeMethods.fa_attention_describe(null, &description);
    }

    private static fa_status WithoutDescription()
    {
        fa_describe_params p = default;
        p.struct_size = (uint)sizeof(fa_describe_params);
        return NativeMethods.fa_attention_describe(&p, null);
    }
}
