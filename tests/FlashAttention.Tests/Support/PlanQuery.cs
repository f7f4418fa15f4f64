using System.Runtime.InteropServices;
using FlashAttention.Interop;

namespace FlashAttention.Tests;

/// <summary>fa_attention_describe for problems that need no memory.</summary>
internal static unsafe class PlanQuery
{
    /// <summary>The description; fails the test if there is none.</summary>
    public static fa_plan_description Of(ProblemCase problem, fa_pass pass, fa_device device, int assumedCapability = 0, int assumedMultiprocessors = 0)
    {
        fa_status status = Try(problem, pass, device, out fa_plan_description description, assumedCapability, assumedMultiprocessors);
        NativeCall.Check(status);
        return description;
    }

    public static fa_status Try(
        ProblemCase problem, fa_pass pass, fa_device device, out fa_plan_description description, int assumedCapability = 0, int assumedMultiprocessors = 0,
        fa_kernel kernel = fa_kernel.FA_KERNEL_AUTO, BiasShape? bias = null, float softcap = 0)
    {
        fa_tensor biasTensor = bias?.Tensor ?? default;
        var options = new fa_attention_options
        {
            struct_size = (uint)sizeof(fa_attention_options),
            mask = (fa_mask)(int)problem.Mask,
            scale = problem.Scale,
            deterministic = problem.Deterministic ? 1 : 0,
            kernel = kernel,
            softcap = softcap,
            bias = bias is null ? null : &biasTensor,
        };
        var p = new fa_describe_params
        {
            struct_size = (uint)sizeof(fa_describe_params),
            pass = pass,
            device = device,
            q = Shape(problem.Format, problem.SizesQ),
            k = Shape(problem.Format, problem.SizesK),
            v = Shape(problem.Format, problem.SizesV),
            options = &options,
            assumed_compute_capability = assumedCapability,
            assumed_multiprocessor_count = assumedMultiprocessors,
        };
        fa_plan_description plan = default;
        plan.struct_size = (uint)sizeof(fa_plan_description);
        fa_status status = NativeMethods.fa_attention_describe(&p, &plan);
        description = plan;
        return status;
    }

    /// <summary>A bias of one batch entry and one head: its format, rows, columns, and distance of rows.</summary>
    public sealed record BiasShape(ElementFormat Format, long Rows, long Columns, long RowStride)
    {
        public fa_tensor Tensor
        {
            get
            {
                fa_tensor tensor = Shape(Format, [1, 1, Rows, Columns]);
                tensor.strides[2] = RowStride;
                tensor.strides[3] = 1;
                return tensor;
            }
        }
    }

    public static string KernelName(this fa_plan_description description) => Marshal.PtrToStringUTF8((nint)description.kernel_name) ?? "";

    public static string Reason(this fa_plan_description description) => Marshal.PtrToStringUTF8((nint)description.reason) ?? "";

    private static fa_tensor Shape(ElementFormat format, long[] sizes)
    {
        fa_tensor tensor = default;
        long[] strides = TensorStorage.Bshd(sizes);
        for (int i = 0; i < 4; i++)
        {
            tensor.sizes[i] = sizes[i];
            tensor.strides[i] = strides[i];
        }
        tensor.dtype = (fa_dtype)format.Code;
        return tensor;
    }
}
