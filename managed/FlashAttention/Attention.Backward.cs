using System.Numerics.Tensors;
using FlashAttention.Interop;

namespace FlashAttention;

public static partial class Attention
{
    /// <summary>Computes the gradients of q, k and v in host memory with default options; complete when it returns.</summary>
    /// <typeparam name="T">float, Half or BFloat16.</typeparam>
    /// <param name="q">In: (batch, len_q, heads_q, head_dim).</param>
    /// <param name="k">In: (batch, len_kv, heads_kv, head_dim).</param>
    /// <param name="v">In: (batch, len_kv, heads_kv, head_dim_v).</param>
    /// <param name="o">In: (batch, len_q, heads_q, head_dim_v), as the forward pass gave it.</param>
    /// <param name="gradO">In: gradient of o, shaped like o.</param>
    /// <param name="lse">In: batch · heads_q · len_q numbers, as the forward pass gave them.</param>
    /// <param name="gradQ">Out: gradient of q, shaped like q. No output may overlap an input or another output; every element is written.</param>
    /// <param name="gradK">Out: gradient of k, shaped like k.</param>
    /// <param name="gradV">Out: gradient of v, shaped like v.</param>
    /// <exception cref="ArgumentException">A span's rank is not 4, or <paramref name="lse"/> has another length.</exception>
    /// <exception cref="NotSupportedException"><typeparamref name="T"/> is another type.</exception>
    /// <exception cref="FlashAttentionException">Shapes, strides or options contradict each other or are not supported; nothing was written.</exception>
    public static void Backward<T>(
        in ReadOnlyTensorSpan<T> q,
        in ReadOnlyTensorSpan<T> k,
        in ReadOnlyTensorSpan<T> v,
        in ReadOnlyTensorSpan<T> o,
        in ReadOnlyTensorSpan<T> gradO,
        ReadOnlySpan<float> lse,
        in TensorSpan<T> gradQ,
        in TensorSpan<T> gradK,
        in TensorSpan<T> gradV)
        where T : unmanaged =>
        Backward(in q, in k, in v, in o, in gradO, lse, in gradQ, in gradK, in gradV, default, AttentionOptions.Default);

    /// <summary>Computes the gradients of q, k and v in host memory; complete when it returns.</summary>
    /// <typeparam name="T">float, Half or BFloat16.</typeparam>
    /// <param name="q">In: (batch, len_q, heads_q, head_dim).</param>
    /// <param name="k">In: (batch, len_kv, heads_kv, head_dim).</param>
    /// <param name="v">In: (batch, len_kv, heads_kv, head_dim_v).</param>
    /// <param name="o">In: (batch, len_q, heads_q, head_dim_v), as the forward pass gave it for equal options.</param>
    /// <param name="gradO">In: gradient of o, shaped like o.</param>
    /// <param name="lse">In: batch · heads_q · len_q numbers, as the forward pass gave them.</param>
    /// <param name="gradQ">Out: gradient of q, shaped like q. No output may overlap an input or another output; every element is written.</param>
    /// <param name="gradK">Out: gradient of k, shaped like k.</param>
    /// <param name="gradV">Out: gradient of v, shaped like v.</param>
    /// <param name="options">Equal to those of the forward pass.</param>
    /// <exception cref="ArgumentException">A span's rank is not 4, or <paramref name="lse"/> has another length.</exception>
    /// <exception cref="ArgumentNullException"><paramref name="options"/> is null.</exception>
    /// <exception cref="NotSupportedException"><typeparamref name="T"/> is another type.</exception>
    /// <exception cref="FlashAttentionException">Shapes, strides or options contradict each other or are not supported; nothing was written.</exception>
    public static void Backward<T>(
        in ReadOnlyTensorSpan<T> q,
        in ReadOnlyTensorSpan<T> k,
        in ReadOnlyTensorSpan<T> v,
        in ReadOnlyTensorSpan<T> o,
        in ReadOnlyTensorSpan<T> gradO,
        ReadOnlySpan<float> lse,
        in TensorSpan<T> gradQ,
        in TensorSpan<T> gradK,
        in TensorSpan<T> gradV,
        AttentionOptions options)
        where T : unmanaged =>
        Backward(in q, in k, in v, in o, in gradO, lse, in gradQ, in gradK, in gradV, default, options);

    /// <summary>Computes the gradients of q, k and v in host memory when lse took part in the loss too; complete when it returns.</summary>
    /// <typeparam name="T">float, Half or BFloat16.</typeparam>
    /// <param name="q">In: (batch, len_q, heads_q, head_dim).</param>
    /// <param name="k">In: (batch, len_kv, heads_kv, head_dim).</param>
    /// <param name="v">In: (batch, len_kv, heads_kv, head_dim_v).</param>
    /// <param name="o">In: (batch, len_q, heads_q, head_dim_v), as the forward pass gave it for equal options.</param>
    /// <param name="gradO">In: gradient of o, shaped like o.</param>
    /// <param name="lse">In: batch · heads_q · len_q numbers, as the forward pass gave them.</param>
    /// <param name="gradQ">Out: gradient of q, shaped like q. No output may overlap an input or another output; every element is written.</param>
    /// <param name="gradK">Out: gradient of k, shaped like k.</param>
    /// <param name="gradV">Out: gradient of v, shaped like v.</param>
    /// <param name="gradLse">In: gradient of lse, batch · heads_q · len_q numbers; empty if lse took no part in the loss.</param>
    /// <param name="options">Equal to those of the forward pass.</param>
    /// <exception cref="ArgumentException">A span's rank is not 4, or <paramref name="lse"/> or <paramref name="gradLse"/> has another length.</exception>
    /// <exception cref="ArgumentNullException"><paramref name="options"/> is null.</exception>
    /// <exception cref="NotSupportedException"><typeparamref name="T"/> is another type.</exception>
    /// <exception cref="FlashAttentionException">Shapes, strides or options contradict each other or are not supported; nothing was written.</exception>
    public static void Backward<T>(
        in ReadOnlyTensorSpan<T> q,
        in ReadOnlyTensorSpan<T> k,
        in ReadOnlyTensorSpan<T> v,
        in ReadOnlyTensorSpan<T> o,
        in ReadOnlyTensorSpan<T> gradO,
        ReadOnlySpan<float> lse,
        in TensorSpan<T> gradQ,
        in TensorSpan<T> gradK,
        in TensorSpan<T> gradV,
        ReadOnlySpan<float> gradLse,
        AttentionOptions options)
        where T : unmanaged =>
        Backward(in q, in k, in v, in o, in gradO, lse, in gradQ, in gradK, in gradV, gradLse, ModifierGradients.None, options);

    /// <summary>Computes the gradients of q, k and v and, where wanted, of bias and sinks in host memory; complete when it returns.</summary>
    /// <typeparam name="T">float, Half or BFloat16.</typeparam>
    /// <param name="q">In: (batch, len_q, heads_q, head_dim).</param>
    /// <param name="k">In: (batch, len_kv, heads_kv, head_dim).</param>
    /// <param name="v">In: (batch, len_kv, heads_kv, head_dim_v).</param>
    /// <param name="o">In: (batch, len_q, heads_q, head_dim_v), as the forward pass gave it for equal options.</param>
    /// <param name="gradO">In: gradient of o, shaped like o.</param>
    /// <param name="lse">In: batch · heads_q · len_q numbers, as the forward pass gave them.</param>
    /// <param name="gradQ">Out: gradient of q, shaped like q. No output may overlap an input or another output; every element is written.</param>
    /// <param name="gradK">Out: gradient of k, shaped like k.</param>
    /// <param name="gradV">Out: gradient of v, shaped like v.</param>
    /// <param name="gradLse">In: gradient of lse, batch · heads_q · len_q numbers; empty if lse took no part in the loss.</param>
    /// <param name="gradients">Where the gradients of bias and sinks go; <see cref="ModifierGradients.None"/> if not wanted.</param>
    /// <param name="options">Equal to those of the forward pass.</param>
    /// <exception cref="ArgumentException">A span's rank is not 4, or <paramref name="lse"/> or <paramref name="gradLse"/> has another length, or
    /// memory of options or gradients is on another device.</exception>
    /// <exception cref="ArgumentNullException"><paramref name="gradients"/> or <paramref name="options"/> is null.</exception>
    /// <exception cref="NotSupportedException"><typeparamref name="T"/> is another type.</exception>
    /// <exception cref="FlashAttentionException">Shapes, strides or options contradict each other or are not supported; nothing was written.</exception>
    public static unsafe void Backward<T>(
        in ReadOnlyTensorSpan<T> q,
        in ReadOnlyTensorSpan<T> k,
        in ReadOnlyTensorSpan<T> v,
        in ReadOnlyTensorSpan<T> o,
        in ReadOnlyTensorSpan<T> gradO,
        ReadOnlySpan<float> lse,
        in TensorSpan<T> gradQ,
        in TensorSpan<T> gradK,
        in TensorSpan<T> gradV,
        ReadOnlySpan<float> gradLse,
        ModifierGradients gradients,
        AttentionOptions options)
        where T : unmanaged
    {
        fa_dtype dtype = (fa_dtype)(int)ElementType<T>.DType;
        ArgumentNullException.ThrowIfNull(gradients);
        ArgumentNullException.ThrowIfNull(options);
        Ensure.Rank4(q.Rank, nameof(q));
        Ensure.Rank4(k.Rank, nameof(k));
        Ensure.Rank4(v.Rank, nameof(v));
        Ensure.Rank4(o.Rank, nameof(o));
        Ensure.Rank4(gradO.Rank, nameof(gradO));
        Ensure.Rank4(gradQ.Rank, nameof(gradQ));
        Ensure.Rank4(gradK.Rank, nameof(gradK));
        Ensure.Rank4(gradV.Rank, nameof(gradV));
        Ensure.LseLength(lse.Length, q.Lengths[0], q.Lengths[2], q.Lengths[1], nameof(lse));
        if (!gradLse.IsEmpty)
        {
            Ensure.LseLength(gradLse.Length, q.Lengths[0], q.Lengths[2], q.Lengths[1], nameof(gradLse));
        }

        fixed (T* qData = q, kData = k, vData = v, oData = o, gradOData = gradO, gradQData = gradQ, gradKData = gradK, gradVData = gradV)
        fixed (float* lseData = lse, gradLseData = gradLse)
        {
            NativeOptions nativeOptions = default;
            using OptionLoans loans = OptionLoans.Lend(options, &nativeOptions, Device.Cpu, q.Lengths[0], q.Lengths[2]);
            fa_backward_params call = default;
            using GradientLoans gradientLoans = GradientLoans.Lend(gradients, &call, Device.Cpu, q.Lengths[2]);
            call.struct_size = (uint)sizeof(fa_backward_params);
            call.device = Device.Cpu.ToNative();
            Fill(&call.q, qData, q.Lengths, q.Strides, dtype);
            Fill(&call.k, kData, k.Lengths, k.Strides, dtype);
            Fill(&call.v, vData, v.Lengths, v.Strides, dtype);
            Fill(&call.o, oData, o.Lengths, o.Strides, dtype);
            Fill(&call.grad_o, gradOData, gradO.Lengths, gradO.Strides, dtype);
            Fill(&call.grad_q, gradQData, gradQ.Lengths, gradQ.Strides, dtype);
            Fill(&call.grad_k, gradKData, gradK.Lengths, gradK.Strides, dtype);
            Fill(&call.grad_v, gradVData, gradV.Lengths, gradV.Strides, dtype);
            call.lse = lseData;
            call.grad_lse = gradLseData;
            call.options = &nativeOptions.Options;
            RunBackward(&call, Workspace.ForHostCalls);
        }
    }
}
