using System.Numerics.Tensors;
using FlashAttention.Interop;

namespace FlashAttention;

/// <summary>Exact attention, <c>O = softmax(scale · Q Kᵀ + mask) V</c>, forward and backward, fused so that the score matrix never exists in memory.</summary>
/// <remarks>
/// <para>Shapes: q (batch, len_q, heads_q, head_dim), k (batch, len_kv, heads_kv, head_dim), v (batch, len_kv, heads_kv, head_dim_v), o (batch, len_q, heads_q,
/// head_dim_v). All share one element type. Any memory order and any gaps are allowed as long as head_dim is contiguous; inputs may be broadcast (stride
/// 0).</para>
/// <para>heads_q is a multiple of heads_kv: query head h reads kv head h / (heads_q / heads_kv), and the gradients of k and v are summed over the group.</para>
/// <para>lse (batch, heads_q, len_q), fp32, contiguous: the natural logarithm of the sum over the visible keys of exp(score). A query that sees no key has o =
/// 0, lse = −∞ and adds nothing to any gradient. Zero batches and zero lengths are legal.</para>
/// <para>Scores and sums are accumulated in fp32 whatever the element type. NaN and infinity propagate to the rows that see them, and to no other row.</para>
/// <para>Algorithms: FlashAttention (Dao et al., 2022, arXiv 2205.14135), FlashAttention-2 (Dao, 2023, arXiv 2307.08691), FlashAttention-3 (Shah et al., 2024,
/// arXiv 2407.08608); online softmax after Milakov and Gimelshein (2018, arXiv 1805.02867).</para>
/// <para>All methods may be called from any number of threads at once. None allocates managed memory once a thread has made a call of the same size; scratch
/// memory on host calls is kept for each thread and only grows (<see cref="Workspace.ReleaseThreadCache"/>).</para>
/// </remarks>
public static partial class Attention
{
    /// <summary>Computes o from q, k and v in host memory with default options; complete when it returns.</summary>
    /// <typeparam name="T">float, Half or BFloat16.</typeparam>
    /// <param name="q">In: (batch, len_q, heads_q, head_dim).</param>
    /// <param name="k">In: (batch, len_kv, heads_kv, head_dim).</param>
    /// <param name="v">In: (batch, len_kv, heads_kv, head_dim_v).</param>
    /// <param name="o">Out: (batch, len_q, heads_q, head_dim_v). Must not overlap an input; every element is written.</param>
    /// <exception cref="ArgumentException">A span's rank is not 4.</exception>
    /// <exception cref="NotSupportedException"><typeparamref name="T"/> is another type.</exception>
    /// <exception cref="FlashAttentionException">Shapes, strides or options contradict each other or are not supported; nothing was written.</exception>
    public static void Forward<T>(in ReadOnlyTensorSpan<T> q, in ReadOnlyTensorSpan<T> k, in ReadOnlyTensorSpan<T> v, in TensorSpan<T> o)
        where T : unmanaged => Forward(in q, in k, in v, in o, default, AttentionOptions.Default);

    /// <summary>Computes o from q, k and v in host memory; complete when it returns.</summary>
    /// <typeparam name="T">float, Half or BFloat16.</typeparam>
    /// <param name="q">In: (batch, len_q, heads_q, head_dim).</param>
    /// <param name="k">In: (batch, len_kv, heads_kv, head_dim).</param>
    /// <param name="v">In: (batch, len_kv, heads_kv, head_dim_v).</param>
    /// <param name="o">Out: (batch, len_q, heads_q, head_dim_v). Must not overlap an input; every element is written.</param>
    /// <param name="options">Mask, scale and so on.</param>
    /// <inheritdoc cref="Forward{T}(in ReadOnlyTensorSpan{T}, in ReadOnlyTensorSpan{T}, in ReadOnlyTensorSpan{T}, in TensorSpan{T})" path="/exception"/>
    public static void Forward<T>(
        in ReadOnlyTensorSpan<T> q, in ReadOnlyTensorSpan<T> k, in ReadOnlyTensorSpan<T> v, in TensorSpan<T> o, AttentionOptions options)
        where T : unmanaged => Forward(in q, in k, in v, in o, default, options);

    /// <summary>Computes o and lse from q, k and v in host memory; complete when it returns.</summary>
    /// <typeparam name="T">float, Half or BFloat16.</typeparam>
    /// <param name="q">In: (batch, len_q, heads_q, head_dim).</param>
    /// <param name="k">In: (batch, len_kv, heads_kv, head_dim).</param>
    /// <param name="v">In: (batch, len_kv, heads_kv, head_dim_v).</param>
    /// <param name="o">Out: (batch, len_q, heads_q, head_dim_v). Must not overlap an input; every element is written.</param>
    /// <param name="lse">Out: batch · heads_q · len_q numbers in that order; empty if not wanted. The backward pass needs it.</param>
    /// <param name="options">Mask, scale and so on.</param>
    /// <exception cref="ArgumentException">A span's rank is not 4, or <paramref name="lse"/> is neither empty nor of its length.</exception>
    /// <exception cref="ArgumentNullException"><paramref name="options"/> is null.</exception>
    /// <exception cref="NotSupportedException"><typeparamref name="T"/> is another type.</exception>
    /// <exception cref="FlashAttentionException">Shapes, strides or options contradict each other or are not supported; nothing was written.</exception>
    public static unsafe void Forward<T>(
        in ReadOnlyTensorSpan<T> q, in ReadOnlyTensorSpan<T> k, in ReadOnlyTensorSpan<T> v, in TensorSpan<T> o, Span<float> lse, AttentionOptions options)
        where T : unmanaged
    {
        fa_dtype dtype = (fa_dtype)(int)ElementType<T>.DType;
        ArgumentNullException.ThrowIfNull(options);
        Ensure.Rank4(q.Rank, nameof(q));
        Ensure.Rank4(k.Rank, nameof(k));
        Ensure.Rank4(v.Rank, nameof(v));
        Ensure.Rank4(o.Rank, nameof(o));
        if (!lse.IsEmpty)
        {
            Ensure.LseLength(lse.Length, q.Lengths[0], q.Lengths[2], q.Lengths[1], nameof(lse));
        }

        fixed (T* qData = q, kData = k, vData = v, oData = o)
        fixed (float* lseData = lse)
        {
            NativeOptions nativeOptions = default;
            using OptionLoans loans = OptionLoans.Lend(options, &nativeOptions, Device.Cpu, q.Lengths[0], q.Lengths[2]);
            fa_forward_params call = default;
            call.struct_size = (uint)sizeof(fa_forward_params);
            call.device = Device.Cpu.ToNative();
            Fill(&call.q, qData, q.Lengths, q.Strides, dtype);
            Fill(&call.k, kData, k.Lengths, k.Strides, dtype);
            Fill(&call.v, vData, v.Lengths, v.Strides, dtype);
            Fill(&call.o, oData, o.Lengths, o.Strides, dtype);
            call.lse = lseData;
            call.options = &nativeOptions.Options;
            RunForward(&call, Workspace.ForHostCalls);
        }
    }

    /// <summary>Computes o from q, k and v with default options and returns it in a new tensor.</summary>
    /// <typeparam name="T">float, Half or BFloat16.</typeparam>
    /// <param name="q">In: (batch, len_q, heads_q, head_dim).</param>
    /// <param name="k">In: (batch, len_kv, heads_kv, head_dim).</param>
    /// <param name="v">In: (batch, len_kv, heads_kv, head_dim_v).</param>
    /// <returns>o: (batch, len_q, heads_q, head_dim_v), without gaps.</returns>
    /// <inheritdoc cref="Forward{T}(in ReadOnlyTensorSpan{T}, in ReadOnlyTensorSpan{T}, in ReadOnlyTensorSpan{T}, in TensorSpan{T})" path="/exception"/>
    public static Tensor<T> Forward<T>(Tensor<T> q, Tensor<T> k, Tensor<T> v)
        where T : unmanaged => Forward(q, k, v, AttentionOptions.Default);

    /// <summary>Computes o from q, k and v and returns it in a new tensor.</summary>
    /// <typeparam name="T">float, Half or BFloat16.</typeparam>
    /// <param name="q">In: (batch, len_q, heads_q, head_dim).</param>
    /// <param name="k">In: (batch, len_kv, heads_kv, head_dim).</param>
    /// <param name="v">In: (batch, len_kv, heads_kv, head_dim_v).</param>
    /// <param name="options">Mask, scale and so on.</param>
    /// <returns>o: (batch, len_q, heads_q, head_dim_v), without gaps.</returns>
    /// <inheritdoc cref="Forward{T}(in ReadOnlyTensorSpan{T}, in ReadOnlyTensorSpan{T}, in ReadOnlyTensorSpan{T}, in TensorSpan{T})" path="/exception"/>
    public static Tensor<T> Forward<T>(Tensor<T> q, Tensor<T> k, Tensor<T> v, AttentionOptions options)
        where T : unmanaged
    {
        ArgumentNullException.ThrowIfNull(q);
        ArgumentNullException.ThrowIfNull(k);
        ArgumentNullException.ThrowIfNull(v);
        Ensure.Rank4(q.Rank, nameof(q));
        Ensure.Rank4(v.Rank, nameof(v));
        Tensor<T> o = Tensor.CreateFromShapeUninitialized<T>([q.Lengths[0], q.Lengths[1], q.Lengths[2], v.Lengths[3]]);
        Forward<T>(q.AsReadOnlyTensorSpan(), k.AsReadOnlyTensorSpan(), v.AsReadOnlyTensorSpan(), o.AsTensorSpan(), default, options);
        return o;
    }

    /// <summary>A host tensor as native code sees it. TensorSpan has checked that lengths and strides stay inside its memory.</summary>
    private static unsafe void Fill(fa_tensor* native, void* data, ReadOnlySpan<nint> lengths, ReadOnlySpan<nint> strides, fa_dtype dtype)
    {
        native->data = data;
        for (int i = 0; i < NativeConstants.FA_TENSOR_RANK; ++i)
        {
            native->sizes[i] = lengths[i];
            native->strides[i] = strides[i];
        }

        native->dtype = dtype;
        native->reserved = 0;
    }

    // The call is tried with the workspace as it is: in steady state that is the only native call. A workspace that is too small is reported before anything is
    // written or queued, so the call can be repeated with a larger one.
    private static unsafe void RunForward(fa_forward_params* call, Workspace workspace)
    {
        fa_status status = AttemptForward(call, workspace);
        if (status == fa_status.FA_STATUS_WORKSPACE_TOO_SMALL)
        {
            ulong bytes = 0;
            NativeStatus.ThrowIfFailed(NativeMethods.fa_attention_forward_workspace_size(call, &bytes));
            workspace.Reserve(checked((long)bytes));
            status = AttemptForward(call, workspace);
        }

        NativeStatus.ThrowIfFailed(status);
    }

    private static unsafe void RunBackward(fa_backward_params* call, Workspace workspace)
    {
        fa_status status = AttemptBackward(call, workspace);
        if (status == fa_status.FA_STATUS_WORKSPACE_TOO_SMALL)
        {
            ulong bytes = 0;
            NativeStatus.ThrowIfFailed(NativeMethods.fa_attention_backward_workspace_size(call, &bytes));
            workspace.Reserve(checked((long)bytes));
            status = AttemptBackward(call, workspace);
        }

        NativeStatus.ThrowIfFailed(status);
    }

    private static unsafe fa_status AttemptForward(fa_forward_params* call, Workspace workspace)
    {
        call->workspace = (void*)workspace.Pointer;
        call->workspace_bytes = (ulong)workspace.SizeBytes;
        using HandleLoan loan = new(workspace.Memory, nameof(workspace));
        return NativeMethods.fa_attention_forward(call);
    }

    private static unsafe fa_status AttemptBackward(fa_backward_params* call, Workspace workspace)
    {
        call->workspace = (void*)workspace.Pointer;
        call->workspace_bytes = (ulong)workspace.SizeBytes;
        using HandleLoan loan = new(workspace.Memory, nameof(workspace));
        return NativeMethods.fa_attention_backward(call);
    }
}
