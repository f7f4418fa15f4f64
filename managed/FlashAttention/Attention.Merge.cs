using System.Runtime.CompilerServices;
using FlashAttention.Interop;

namespace FlashAttention;

/// <summary>What attention over a part of the keys gave: its output and log-sum-exp; or their gradients, or the merged result.</summary>
/// <param name="O">(batch, len_q, heads_q, head_dim_v).</param>
/// <param name="Lse">batch · heads_q · len_q numbers.</param>
public readonly record struct AttentionPart(AttentionTensor O, AttentionVector<float> Lse);

public static partial class Attention
{
    /// <summary>Most parts that one <see cref="Merge"/> takes.</summary>
    public const int MaxMergedParts = NativeConstants.FA_MERGE_MAX_PARTS;

    /// <summary>Merges attention over disjoint sets of keys, computed apart, into what attention over all of them gives: split KV, cascades, ring
    /// attention.</summary>
    /// <param name="parts">In: 1 to <see cref="MaxMergedParts"/> parts of equal sizes and one element type (float too, on any device). lse is −∞ where a part
    /// holds no visible key.</param>
    /// <param name="merged">Out: lse = log Σ exp(lse of the part), o = Σ exp(lse of the part − lse) · o of the part; o may have another element type. 0 and
    /// −∞ where no part holds a
    /// visible key. No output may overlap an input.</param>
    /// <param name="stream">Stream of the parts' device; null for the default stream. For CUDA the call only queues work.</param>
    /// <exception cref="ArgumentException">No parts, too many, or memory of different devices, or an lse of another length.</exception>
    /// <exception cref="FlashAttentionException">Sizes or element types contradict each other, or the driver refused; nothing was written.</exception>
    /// <exception cref="ObjectDisposedException">A tensor or the stream was disposed.</exception>
    public static unsafe void Merge(ReadOnlySpan<AttentionPart> parts, AttentionPart merged, DeviceStream? stream = null)
    {
        Device device = CheckParts(parts, merged, stream);
        fa_merge_params call = NewMerge(parts.Length, device, stream);
        MergeLoans loans = default;
        using HandleLoan streamLoan = DeviceStream.Lend(stream);
        try
        {
            loans.LendParts(parts, &call);
            loans.LendMerged(merged, &call);
            NativeStatus.ThrowIfFailed(NativeMethods.fa_attention_merge(&call));
        }
        finally
        {
            loans.Release();
        }
    }

    /// <summary>Computes the gradients of the parts of a <see cref="Merge"/> from those of the merged result.</summary>
    /// <param name="parts">In: the parts as they were merged.</param>
    /// <param name="merged">In: the merged result.</param>
    /// <param name="gradO">In: gradient of the merged o.</param>
    /// <param name="gradLse">In: gradient of the merged lse; null if it took no part in the loss.</param>
    /// <param name="gradients">Out: gradient of each part's o and lse; 0 where the part holds no visible key. No output may overlap an input or another
    /// output.</param>
    /// <param name="stream">Stream of the parts' device; null for the default stream. For CUDA the call only queues work.</param>
    /// <exception cref="ArgumentException">No parts, too many, or memory of different devices, another number of gradients, or an lse of another
    /// length.</exception>
    /// <exception cref="ArgumentNullException"><paramref name="gradO"/> is null.</exception>
    /// <exception cref="FlashAttentionException">Sizes or element types contradict each other, or the driver refused; nothing was written.</exception>
    /// <exception cref="ObjectDisposedException">A tensor or the stream was disposed.</exception>
    public static unsafe void MergeBackward(
        ReadOnlySpan<AttentionPart> parts,
        AttentionPart merged,
        AttentionTensor gradO,
        AttentionVector<float>? gradLse,
        ReadOnlySpan<AttentionPart> gradients,
        DeviceStream? stream = null)
    {
        ArgumentNullException.ThrowIfNull(gradO);
        Device device = CheckParts(parts, merged, stream);
        Ensure.SameDevice(device, gradO.Device, nameof(gradO));
        if (gradLse is not null)
        {
            CheckPart(new AttentionPart(gradO, gradLse), device, nameof(gradLse));
        }

        if (gradients.Length != parts.Length)
        {
            throw new ArgumentException($"gradients: expected {parts.Length}, one for each part, got {gradients.Length}.", nameof(gradients));
        }

        foreach (AttentionPart gradient in gradients)
        {
            CheckPart(gradient, device, nameof(gradients));
        }

        fa_merge_params call = NewMerge(parts.Length, device, stream);
        MergeLoans loans = default;
        using HandleLoan streamLoan = DeviceStream.Lend(stream);
        try
        {
            loans.LendParts(parts, &call);
            loans.LendMerged(merged, &call);
            loans.LendGradients(gradO, gradLse, gradients, &call);
            NativeStatus.ThrowIfFailed(NativeMethods.fa_attention_merge_backward(&call));
        }
        finally
        {
            loans.Release();
        }
    }

    /// <summary>Writes which pairs dropout keeps.</summary>
    /// <param name="dropout">Rate, seed and offset.</param>
    /// <param name="kept">Out: bytes or bools, (batch, heads_q, len_q, len_kv), the last dimension contiguous; 1 where a pair is kept, 0 where it is
    /// dropped.</param>
    /// <param name="stream">Stream of the tensor's device; null for the default stream. For CUDA the call only queues work.</param>
    /// <exception cref="ArgumentNullException"><paramref name="kept"/> is null.</exception>
    /// <exception cref="ArgumentException">A stream of another device.</exception>
    /// <exception cref="FlashAttentionException">The rate is not in [0, 1), another element type, or the driver refused; nothing was written.</exception>
    /// <exception cref="ObjectDisposedException">The tensor or the stream was disposed.</exception>
    public static unsafe void DropoutMask(Dropout dropout, AttentionTensor kept, DeviceStream? stream = null)
    {
        ArgumentNullException.ThrowIfNull(kept);
        DeviceStream.Check(stream, kept.Device, nameof(stream));
        using HandleLoan streamLoan = DeviceStream.Lend(stream);
        using MemoryLoan loan = kept.Borrow(nameof(kept));
        fa_dropout_mask_params call = default;
        call.struct_size = (uint)sizeof(fa_dropout_mask_params);
        call.dropout = dropout.Rate;
        call.seed = dropout.Seed;
        call.offset = dropout.Offset;
        call.device = kept.Device.ToNative();
        kept.CopyTo(&call.@out, loan.Data);
        call.stream = DeviceStream.ValueOf(stream);
        NativeStatus.ThrowIfFailed(NativeMethods.fa_attention_dropout_mask(&call));
    }

    private static unsafe fa_merge_params NewMerge(int parts, Device device, DeviceStream? stream)
    {
        fa_merge_params call = default;
        call.struct_size = (uint)sizeof(fa_merge_params);
        call.parts = parts;
        call.device = device.ToNative();
        call.stream = DeviceStream.ValueOf(stream);
        return call;
    }

    private static Device CheckParts(ReadOnlySpan<AttentionPart> parts, AttentionPart merged, DeviceStream? stream)
    {
        if (parts.Length is < 1 or > MaxMergedParts)
        {
            throw new ArgumentException($"parts: expected 1 to {MaxMergedParts}, got {parts.Length}.", nameof(parts));
        }

        Device device = (parts[0].O ?? throw new ArgumentException("parts: expected o and lse of part 0, got null.", nameof(parts))).Device;
        foreach (AttentionPart part in parts)
        {
            CheckPart(part, device, nameof(parts));
        }

        CheckPart(merged, device, nameof(merged));
        DeviceStream.Check(stream, device, nameof(stream));
        return device;
    }

    private static void CheckPart(AttentionPart part, Device device, string name)
    {
        if (part.O is null || part.Lse is null)
        {
            throw new ArgumentException($"{name}: expected o and lse, got null.", name);
        }

        Ensure.SameDevice(device, part.O.Device, name);
        Ensure.SameDevice(device, part.Lse.Device, name);
        Ensure.LseLength(part.Lse.Length, part.O.Sizes.Batch, part.O.Sizes.Heads, part.O.Sizes.Sequence, name);
    }

    /// <summary>Holds the memory of a merge: four pieces for each part, and four besides.</summary>
    private unsafe ref struct MergeLoans
    {
        private Slots _slots;
        private int _count;

        public void LendParts(ReadOnlySpan<AttentionPart> parts, fa_merge_params* call)
        {
            for (int i = 0; i < parts.Length; ++i)
            {
                fa_tensor o = default;
                parts[i].O.CopyTo(&o, Take(parts[i].O.Borrow("parts")));
                call->part_o[i] = o;
                call->part_lse[i] = Take(parts[i].Lse.Borrow("parts"));
            }
        }

        public void LendMerged(AttentionPart merged, fa_merge_params* call)
        {
            merged.O.CopyTo(&call->o, Take(merged.O.Borrow(nameof(merged))));
            call->lse = (float*)Take(merged.Lse.Borrow(nameof(merged)));
        }

        public void LendGradients(AttentionTensor gradO, AttentionVector<float>? gradLse, ReadOnlySpan<AttentionPart> gradients, fa_merge_params* call)
        {
            gradO.CopyTo(&call->grad_o, Take(gradO.Borrow(nameof(gradO))));
            call->grad_lse = gradLse is null ? null : (float*)Take(gradLse.Borrow(nameof(gradLse)));
            for (int i = 0; i < gradients.Length; ++i)
            {
                fa_tensor o = default;
                gradients[i].O.CopyTo(&o, Take(gradients[i].O.Borrow(nameof(gradients))));
                call->grad_part_o[i] = o;
                call->grad_part_lse[i] = Take(gradients[i].Lse.Borrow(nameof(gradients)));
            }
        }

        public void Release()
        {
            for (int i = 0; i < _count; ++i)
            {
                _slots[i].Dispose();
            }
        }

        private nint Take(MemoryLoan loan)
        {
            _slots[_count++] = loan;
            return loan.Data;
        }

        [InlineArray((4 * MaxMergedParts) + 4)]
        private struct Slots
        {
            private MemoryLoan _element0;
        }
    }
}
