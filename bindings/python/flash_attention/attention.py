"""Attention on PyTorch tensors, logically (batch, sequence, heads, head_dim), with autograd.

Algorithms: FlashAttention (arXiv 2205.14135), FlashAttention-2 (arXiv 2307.08691), FlashAttention-3 (arXiv 2407.08608).
"""

import ctypes
from dataclasses import dataclass, replace

import torch

from . import _abi
from ._library import check, library
from .options import Options, pointer as _pointer, view as _view

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def _device(tensor):
    if tensor.device.type == "cuda":
        return _abi.fa_device(_abi.FA_DEVICE_CUDA, tensor.device.index)
    if tensor.device.type == "cpu":
        return _abi.fa_device(_abi.FA_DEVICE_CPU, 0)
    raise ValueError(f"expected a tensor on the CPU or on CUDA, got one on {tensor.device}")


def _stream(tensor):
    return torch.cuda.current_stream(tensor.device).cuda_stream if tensor.is_cuda else None


def _check(name, tensor, like=None):
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(tensor).__name__}")
    if tensor.dim() != 4:
        raise ValueError(f"{name}: expected 4 dimensions (batch, sequence, heads, head_dim), got shape {tuple(tensor.shape)}")
    if tensor.dtype not in _DTYPES:
        raise ValueError(f"{name}: expected float32, float16 or bfloat16, got {tensor.dtype}")
    if like is not None and tensor.device != like.device:
        raise ValueError(f"{name}: expected a tensor on {like.device} like q, got one on {tensor.device}")


def _contiguous_head_dim(tensor):
    """The tensor itself, or a copy if its last dimension is strided (an expanded gradient, say)."""
    return tensor if tensor.size(3) <= 1 or tensor.stride(3) == 1 else tensor.contiguous()


def _run(size_function, run_function, params, like):
    """Queries the workspace, allocates it through torch (stream-ordered, reused by its caching allocator) and makes the call."""
    size = ctypes.c_uint64()
    check(size_function(ctypes.byref(params), ctypes.byref(size)))
    workspace = torch.empty(size.value, dtype=torch.uint8, device=like.device) if size.value else None
    if workspace is not None:
        params.workspace = workspace.data_ptr()
        params.workspace_bytes = size.value
    check(run_function(ctypes.byref(params)))


def forward_params(q, k, v, o, lse, native_options):
    """fa_forward_params of tensors, on torch's current stream; without a workspace. The tensors must outlive the call."""
    return _abi.fa_forward_params(
        struct_size=ctypes.sizeof(_abi.fa_forward_params),
        device=_device(q),
        q=_view(q),
        k=_view(k),
        v=_view(v),
        o=_view(o),
        lse=_pointer(lse),
        options=ctypes.pointer(native_options),
        stream=_stream(q),
    )


def backward_params(q, k, v, o, grad_o, lse, grad_q, grad_k, grad_v, native_options, grad_lse=None, grad_bias=None, grad_sinks=None):
    """fa_backward_params of tensors, otherwise as :func:`forward_params`."""
    params = _abi.fa_backward_params(
        struct_size=ctypes.sizeof(_abi.fa_backward_params),
        device=_device(q),
        q=_view(q),
        k=_view(k),
        v=_view(v),
        o=_view(o),
        grad_o=_view(grad_o),
        grad_q=_view(grad_q),
        grad_k=_view(grad_k),
        grad_v=_view(grad_v),
        lse=_pointer(lse),
        grad_lse=_pointer(grad_lse),
        options=ctypes.pointer(native_options),
        stream=_stream(q),
        grad_sinks=_pointer(grad_sinks),
    )
    if grad_bias is not None:
        params.grad_bias = _view(grad_bias)
    return params


def attention_forward(q, k, v, *, out=None, lse=True, **options):
    """Computes (o, lse) without autograd. o is ``out`` if given, else new; lse is (batch, heads_q, len_q) float32, or None if ``lse`` is False.

    See :func:`attention` for the other arguments. Dropout needs an explicit dropout_seed here.
    """
    _check("q", q)
    _check("k", k, q)
    _check("v", v, q)
    q, k, v = _contiguous_head_dim(q), _contiguous_head_dim(k), _contiguous_head_dim(v)
    if out is None:
        out = torch.empty((*q.shape[:3], v.shape[3]), dtype=q.dtype, device=q.device)
    else:
        _check("out", out, q)
    native_options, kept = _options(options).native(q)
    row_values = torch.empty((q.shape[0], q.shape[2], q.shape[1]), dtype=torch.float32, device=q.device) if lse else None
    params = forward_params(q, k, v, out, row_values, native_options)
    native = library()
    _run(native.fa_attention_forward_workspace_size, native.fa_attention_forward, params, q)
    return out, row_values


def attention_backward(q, k, v, o, grad_o, lse, *, grad_lse=None, want_grad_bias=False, want_grad_sinks=False, **options):
    """Computes (grad_q, grad_k, grad_v) from what :func:`attention_forward` took and gave, without autograd.

    want_grad_bias and want_grad_sinks append the gradients of bias (of its shape and dtype) and sinks.
    """
    for name, tensor in (("q", q), ("k", k), ("v", v), ("o", o), ("grad_o", grad_o)):
        _check(name, tensor, q)
    q, k, v, o, grad_o = (_contiguous_head_dim(tensor) for tensor in (q, k, v, o, grad_o))
    row_shape = (q.shape[0], q.shape[2], q.shape[1])
    for name, tensor in (("lse", lse), ("grad_lse", grad_lse)):
        if tensor is not None and (tensor.shape != row_shape or tensor.dtype != torch.float32 or tensor.device != q.device):
            raise ValueError(f"{name}: expected float32 {row_shape} on {q.device}, got {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}")
    lse = lse.contiguous()
    grad_lse = None if grad_lse is None else grad_lse.contiguous()
    given = _options(options)
    native_options, kept = given.native(q)
    gradients = [torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device) for tensor in (q, k, v)]
    if want_grad_bias:
        gradients.append(torch.empty(given.bias.shape, dtype=given.bias.dtype, device=q.device))
    if want_grad_sinks:
        gradients.append(torch.empty(given.sinks.shape, dtype=torch.float32, device=q.device))
    grad_bias = gradients[3] if want_grad_bias else None
    grad_sinks = gradients[-1] if want_grad_sinks else None
    params = backward_params(q, k, v, o, grad_o, lse, *gradients[:3], native_options, grad_lse, grad_bias, grad_sinks)
    native = library()
    _run(native.fa_attention_backward_workspace_size, native.fa_attention_backward, params, q)
    return tuple(gradients)


def _options(given):
    unknown = set(given) - set(Options.names())
    if unknown:
        raise TypeError(f"unexpected arguments {', '.join(sorted(unknown))}; expected some of {', '.join(Options.names())}")
    return Options(**given)


class _Attention(torch.autograd.Function):
    # bias and sinks are arguments of their own, so that autograd sees them.
    @staticmethod
    def forward(ctx, q, k, v, bias, sinks, options):
        given = {name: getattr(options, name) for name in Options.names()}
        o, lse = attention_forward(q, k, v, **{**given, "bias": bias, "sinks": sinks})
        ctx.save_for_backward(q, k, v, bias, sinks, o, lse)
        ctx.given = given
        ctx.set_materialize_grads(False)
        return o, lse

    @staticmethod
    def backward(ctx, grad_o, grad_lse):
        q, k, v, bias, sinks, o, lse = ctx.saved_tensors
        if grad_o is None:
            grad_o = torch.zeros_like(o)
        want_bias, want_sinks = ctx.needs_input_grad[3], ctx.needs_input_grad[4]
        given = {**ctx.given, "bias": bias, "sinks": sinks}
        grads = list(attention_backward(q, k, v, o, grad_o, lse, grad_lse=grad_lse, want_grad_bias=want_bias, want_grad_sinks=want_sinks, **given))
        return (*grads[:3], grads[3] if want_bias else None, grads[-1] if want_sinks else None, None)


def attention(q, k, v, *, return_lse=False, **options):
    """Exact attention, differentiable in q, k, v, bias and sinks (and through lse).

    Args:
        q: (batch, len_q, heads_q, head_dim), float32 (CPU only), float16 or bfloat16, on the CPU or on CUDA; any strides with contiguous head_dim.
        k: (batch, len_kv, heads_kv, head_dim), same dtype and device. heads_q must be a multiple of heads_kv (grouped-query attention).
        v: (batch, len_kv, heads_kv, head_dim_v).
        return_lse: also return the log-sum-exp of each row, (batch, heads_q, len_q) float32, natural logarithm, -inf for a row that sees no key.
        causal: None, "top_left" (query i sees key j iff j <= i) or "bottom_right" (iff j <= i + len_kv - len_q). It also says where a window, chunks and
            ALiBi put query i; without it that is top-left.
        scale: factor on the scores; None for 1/sqrt(head_dim).
        window: (left, right), keys before and after a query's position that it sees; None for all. With causal the right side is 0.
        chunk: keys of a chunk; a query sees its own chunk. 0: none.
        softcap: softcap * tanh(scores / softcap), before bias and ALiBi.
        alibi_slopes: (heads_q) or (batch, heads_q) float32; slope * |position - key| is taken off (arXiv 2108.12409).
        bias: (batch, heads_q, len_q, len_kv), 1 where it broadcasts (not the last), float32 or the dtype of q; -inf hides a pair. Differentiable.
        visible: bool or uint8 of the same sizes; a query sees a key only where it is not 0.
        block_mask, block_size: bool or uint8 (batch or 1, heads_q or 1, blocks of queries, blocks of keys); size of a block, multiples of 16.
        sinks: (heads_q) float32, logits of a further key without value. Differentiable.
        dropout_p, dropout_seed, dropout_offset: probabilities are dropped with dropout_p; which ones depends on seed and offset alone, on every device.
            Without a seed one is drawn from torch's default generator.
        cu_seqlens_q, cu_seqlens_kv, max_len_q, max_len_kv: packed sequences: int32 offsets along the sequence dimension of tensors of batch 1, and the longest.
        seqused_q, seqused_kv, left_padded: int32 used lengths of each sequence, of its first positions or of its last.
        deterministic: True for bitwise repeatable gradients.
        kernel: "auto", or insist on "cpu", "sm80" or "sm90".

    Returns:
        o (batch, len_q, heads_q, head_dim_v), or (o, lse).

    Raises:
        FlashAttentionError: no kernel computes the problem, or a call failed; the message names the argument, what was expected and what came.
        ValueError, TypeError: an argument is no such tensor or option.

    CUDA work is queued on torch's current stream of the tensors' device.
    """
    given = _options(options)
    if given.dropout_p != 0 and given.dropout_seed is None:
        given = replace(given, dropout_seed=int(torch.randint(0, 2**63 - 1, (), dtype=torch.int64)))
    o, lse = _Attention.apply(q, k, v, given.bias, given.sinks, replace(given, bias=None, sinks=None))
    return (o, lse) if return_lse else o


def dropout_mask(shape, dropout_p, dropout_seed, dropout_offset=0, device="cpu"):
    """Which pairs dropout keeps: a bool tensor (batch, heads_q, len_q, len_kv), a function of seed, offset and position alone."""
    kept = torch.empty(shape, dtype=torch.uint8, device=device)
    params = _abi.fa_dropout_mask_params(
        struct_size=ctypes.sizeof(_abi.fa_dropout_mask_params),
        dropout=dropout_p,
        seed=dropout_seed,
        offset=dropout_offset,
        device=_device(kept),
        out=_view(kept),
        stream=_stream(kept),
    )
    check(library().fa_attention_dropout_mask(ctypes.byref(params)))
    return kept.bool()


@dataclass(frozen=True)
class Plan:
    """What would run for a problem; fields as in fa_plan_description."""

    kernel_name: str
    reason: str
    tile_q: int
    tile_kv: int
    stages: int
    threads: int
    registers_per_thread: int
    launches: int
    blocks: int
    shared_memory_bytes: int
    workspace_bytes: int
    flops: float
    exponentials: float
    minimum_bytes: float
    tiled_bytes: float
    unfused_bytes: float
    unfused_scratch_bytes: float


def describe(q, k, v, *, backward=False, assumed_compute_capability=0, **options):
    """What would run for these tensors (their data is not read): a :class:`Plan`.

    Options are those of :func:`attention`. assumed_compute_capability plans for an absent CUDA device, e.g. 90; otherwise the tensors' own device counts.
    """
    native_options, kept = _options(options).native(q)
    device = _abi.fa_device(_abi.FA_DEVICE_CUDA, 0) if assumed_compute_capability else _device(q)
    params = _abi.fa_describe_params(
        struct_size=ctypes.sizeof(_abi.fa_describe_params),
        **{"pass": _abi.FA_PASS_BACKWARD if backward else _abi.FA_PASS_FORWARD},
        device=device,
        q=_view(q),
        k=_view(k),
        v=_view(v),
        options=ctypes.pointer(native_options),
        assumed_compute_capability=assumed_compute_capability,
    )
    description = _abi.fa_plan_description(struct_size=ctypes.sizeof(_abi.fa_plan_description))
    check(library().fa_attention_describe(ctypes.byref(params), ctypes.byref(description)))

    def text(value):
        return value.decode() if isinstance(value, bytes) else value

    return Plan(**{field: text(getattr(description, field)) for field in Plan.__dataclass_fields__})
