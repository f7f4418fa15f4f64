using System.Diagnostics.CodeAnalysis;

namespace FlashAttention.Interop;

/// <summary>Options as native code sees them, with what they point to. It lives on the caller's stack, where it does not move.</summary>
internal unsafe struct NativeOptions
{
    public fa_attention_options Options;
    public fa_tensor Bias;
    public fa_tensor Visible;
    public fa_tensor BlockMask;
    public fa_sequences Sequences;
}

/// <summary>Holds the memory that options refer to for the length of a native call.</summary>
internal unsafe ref struct OptionLoans
{
    private readonly Device? _device;
    private readonly long _batch;
    private readonly long _heads;
    private readonly bool _any;
    private MemoryLoan _slopes;
    private MemoryLoan _sinks;
    private MemoryLoan _bias;
    private MemoryLoan _visible;
    private MemoryLoan _blocks;
    private MemoryLoan _offsetsQ;
    private MemoryLoan _offsetsKv;
    private MemoryLoan _usedQ;
    private MemoryLoan _usedKv;

    private OptionLoans(Device? device, long batch, long heads) => (_device, _batch, _heads, _any) = (device, batch, heads, true);

    /// <summary>Fills the native options and borrows what they refer to.</summary>
    /// <param name="options">Options.</param>
    /// <param name="native">Receives them.</param>
    /// <param name="device">Device of the call, on which the memory must be; null for a description, which reads none.</param>
    /// <param name="batch">Batch of q.</param>
    /// <param name="heads">Heads of q.</param>
    public static OptionLoans Lend(AttentionOptions options, NativeOptions* native, Device? device, long batch, long heads)
    {
        options.CopyScalarsTo(&native->Options);
        if (!options.HasMemory)
        {
            return default;
        }

        OptionLoans loans = new(device, options.Sequences?.Count ?? batch, heads);
        try
        {
            loans.LendVectors(options, native);
            loans.LendTensors(options, native);
            loans.LendSequences(options.Sequences, native);
            return loans;
        }
        catch
        {
            loans.Dispose();
            throw;
        }
    }

    public void Dispose()
    {
        if (!_any)
        {
            return;
        }

        _slopes.Dispose();
        _sinks.Dispose();
        _bias.Dispose();
        _visible.Dispose();
        _blocks.Dispose();
        _offsetsQ.Dispose();
        _offsetsKv.Dispose();
        _usedQ.Dispose();
        _usedKv.Dispose();
    }

    private void LendVectors(AttentionOptions options, NativeOptions* native)
    {
        if (options.Alibi is { } alibi)
        {
            _slopes = Vector(alibi.Slopes, alibi.PerBatch ? _batch * _heads : _heads, "options.Alibi.Slopes");
            native->Options.alibi_slopes = (float*)_slopes.Data;
            native->Options.alibi_batch_stride = alibi.PerBatch ? _heads : 0;
        }

        if (options.Sinks is { } sinks)
        {
            _sinks = Vector(sinks.Logits, _heads, "options.Sinks.Logits");
            native->Options.sinks = (float*)_sinks.Data;
        }
    }

    private void LendTensors(AttentionOptions options, NativeOptions* native)
    {
        if (options.Bias is { } bias)
        {
            _bias = Tensor(bias.Values, &native->Bias, "options.Bias.Values");
            native->Options.bias = &native->Bias;
        }

        if (options.Visible is { } visible)
        {
            _visible = Tensor(visible.Values, &native->Visible, "options.Visible.Values");
            native->Options.visible = &native->Visible;
        }

        if (options.BlockMask is { } blocks)
        {
            _blocks = Tensor(blocks.Blocks, &native->BlockMask, "options.BlockMask.Blocks");
            native->Options.block_mask = &native->BlockMask;
            native->Options.block_q = blocks.BlockQ;
            native->Options.block_kv = blocks.BlockKv;
        }
    }

    private void LendSequences(Sequences? sequences, NativeOptions* native)
    {
        if (sequences is null)
        {
            return;
        }

        fa_sequences* target = &native->Sequences;
        target->struct_size = (uint)sizeof(fa_sequences);
        target->left_padded = sequences.LeftPadded ? 1 : 0;
        target->count = sequences.Count;
        target->max_len_q = sequences.LongestQ;
        target->max_len_kv = sequences.LongestKv;
        _offsetsQ = Lengths(sequences.OffsetsQ, sequences.Count + 1, "options.Sequences.OffsetsQ");
        _offsetsKv = Lengths(sequences.OffsetsKv, sequences.Count + 1, "options.Sequences.OffsetsKv");
        _usedQ = Lengths(sequences.UsedQ, sequences.Count, "options.Sequences.UsedQ");
        _usedKv = Lengths(sequences.UsedKv, sequences.Count, "options.Sequences.UsedKv");
        target->cu_seqlens_q = (int*)_offsetsQ.Data;
        target->cu_seqlens_kv = (int*)_offsetsKv.Data;
        target->seqused_q = (int*)_usedQ.Data;
        target->seqused_kv = (int*)_usedKv.Data;
        native->Options.sequences = target;
    }

    private readonly MemoryLoan Lengths(AttentionVector<int>? lengths, long expected, string name) =>
        lengths is null ? default : Vector(lengths, expected, name);

    private readonly MemoryLoan Vector<T>(AttentionVector<T> vector, long expected, string name)
        where T : unmanaged
    {
        if (vector.Length != expected)
        {
            ThrowLength(name, expected, vector.Length);
        }

        CheckDevice(vector.Device, name);
        return vector.Borrow(name);
    }

    private readonly MemoryLoan Tensor(AttentionTensor tensor, fa_tensor* native, string name)
    {
        CheckDevice(tensor.Device, name);
        MemoryLoan loan = tensor.Borrow(name);
        tensor.CopyTo(native, loan.Data);
        return loan;
    }

    private readonly void CheckDevice(Device actual, string name)
    {
        if (_device is { } device)
        {
            Ensure.SameDevice(device, actual, name);
        }
    }

    [DoesNotReturn]
    private static void ThrowLength(string name, long expected, long actual) =>
        throw new ArgumentException($"{name}: expected {expected} elements, got {actual}.", "options");
}

/// <summary>Holds the memory of <see cref="ModifierGradients"/> for the length of a native call.</summary>
internal unsafe ref struct GradientLoans
{
    private MemoryLoan _bias;
    private MemoryLoan _sinks;

    /// <summary>Fills the outputs of a backward call and borrows their memory.</summary>
    public static GradientLoans Lend(ModifierGradients gradients, fa_backward_params* call, Device device, long heads)
    {
        GradientLoans loans = default;
        if (gradients.Bias is { } bias)
        {
            Ensure.SameDevice(device, bias.Device, "gradients.Bias");
            loans._bias = bias.Borrow("gradients.Bias");
            bias.CopyTo(&call->grad_bias, loans._bias.Data);
        }

        try
        {
            if (gradients.Sinks is { } sinks)
            {
                Ensure.SameDevice(device, sinks.Device, "gradients.Sinks");
                Ensure.Exactly(sinks.Length, heads, "gradients.Sinks");
                loans._sinks = sinks.Borrow("gradients.Sinks");
                call->grad_sinks = (float*)loans._sinks.Data;
            }
        }
        catch
        {
            loans.Dispose();
            throw;
        }

        return loans;
    }

    public void Dispose()
    {
        _bias.Dispose();
        _sinks.Dispose();
    }
}
