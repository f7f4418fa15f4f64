"""Attention on PyTorch tensors, logically (batch, sequence, heads, head_dim), with autograd.

Algorithms: FlashAttention (arXiv 2205.14135), FlashAttention-2 (arXiv 2307.08691), FlashAttention-3 (arXiv 2407.08608).
"""

import ctypes
import math
from dataclasses import dataclass

import torch

from . import _abi
from ._library import check, library

_DTYPES = {torch.float32: _abi.FA_DTYPE_FLOAT32, torch.float16: _abi.FA_DTYPE_FLOAT16, torch.bfloat16: _abi.FA_DTYPE_BFLOAT16}
_MASKS = {None: _abi.FA_MASK_NONE, "top_left": _abi.FA_MASK_CAUSAL_TOP_LEFT, "bottom_right": _abi.FA_MASK_CAUSAL_BOTTOM_RIGHT}
_KERNELS = {"auto": _abi.FA_KERNEL_AUTO, "cpu": _abi.FA_KERNEL_CPU, "sm80": _abi.FA_KERNEL_SM80, "sm90": _abi.FA_KERNEL_SM90}


@dataclass(frozen=True)
class _Options:
    causal: object
    scale: object
    deterministic: bool
    kernel: str

    def native(self):
        if self.causal not in _MASKS:
            raise ValueError(f'causal: expected None, "top_left" or "bottom_right", got {self.causal!r}')
        if self.kernel not in _KERNELS:
            raise ValueError(f"kernel: expected one of {', '.join(_KERNELS)}, got {self.kernel!r}")
        if self.scale is not None and not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale: expected a finite number > 0 or None, got {self.scale!r}")
        return _abi.fa_attention_options(
            struct_size=ctypes.sizeof(_abi.fa_attention_options),
            mask=_MASKS[self.causal],
            scale=0.0 if self.scale is None else self.scale,
            deterministic=int(self.deterministic),
            kernel=_KERNELS[self.kernel],
        )


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


def _view(tensor):
    view = _abi.fa_tensor(data=tensor.data_ptr(), dtype=_DTYPES[tensor.dtype])
    view.sizes[:] = tensor.shape
    view.strides[:] = tensor.stride()
    return view


def _pointer(tensor):
    return ctypes.cast(ctypes.c_void_p(tensor.data_ptr() if tensor is not None else None), ctypes.POINTER(ctypes.c_float))


def _run(size_function, run_function, params, like):
    """Queries the workspace, allocates it through torch (stream-ordered, reused by its caching allocator) and makes the call."""
    size = ctypes.c_uint64()
    check(size_function(ctypes.byref(params), ctypes.byref(size)))
    workspace = torch.empty(size.value, dtype=torch.uint8, device=like.device) if size.value else None
    if workspace is not None:
        params.workspace = workspace.data_ptr()
        params.workspace_bytes = size.value
    check(run_function(ctypes.byref(params)))


def attention_forward(q, k, v, *, causal=None, scale=None, deterministic=False, kernel="auto", out=None, lse=True):
    """Computes (o, lse) without autograd. o is ``out`` if given, else new; lse is (batch, heads_q, len_q) float32, or None if ``lse`` is False.

    See :func:`attention` for the other arguments.
    """
    options = _Options(causal, scale, deterministic, kernel).native()
    _check("q", q)
    _check("k", k, q)
    _check("v", v, q)
    q, k, v = _contiguous_head_dim(q), _contiguous_head_dim(k), _contiguous_head_dim(v)
    if out is None:
        out = torch.empty((*q.shape[:3], v.shape[3]), dtype=q.dtype, device=q.device)
    else:
        _check("out", out, q)
    row_values = torch.empty((q.shape[0], q.shape[2], q.shape[1]), dtype=torch.float32, device=q.device) if lse else None
    params = _abi.fa_forward_params(
        struct_size=ctypes.sizeof(_abi.fa_forward_params),
        device=_device(q),
        q=_view(q),
        k=_view(k),
        v=_view(v),
        o=_view(out),
        lse=_pointer(row_values),
        options=ctypes.pointer(options),
        stream=_stream(q),
    )
    native = library()
    _run(native.fa_attention_forward_workspace_size, native.fa_attention_forward, params, q)
    return out, row_values


def attention_backward(q, k, v, o, grad_o, lse, *, grad_lse=None, causal=None, scale=None, deterministic=False, kernel="auto"):
    """Computes (grad_q, grad_k, grad_v) from what :func:`attention_forward` took and gave, without autograd."""
    options = _Options(causal, scale, deterministic, kernel).native()
    for name, tensor in (("q", q), ("k", k), ("v", v), ("o", o), ("grad_o", grad_o)):
        _check(name, tensor, q)
    q, k, v, o, grad_o = (_contiguous_head_dim(tensor) for tensor in (q, k, v, o, grad_o))
    row_shape = (q.shape[0], q.shape[2], q.shape[1])
    for name, tensor in (("lse", lse), ("grad_lse", grad_lse)):
        if tensor is not None and (tensor.shape != row_shape or tensor.dtype != torch.float32 or tensor.device != q.device):
            raise ValueError(f"{name}: expected float32 {row_shape} on {q.device}, got {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}")
    lse = lse.contiguous()
    grad_lse = None if grad_lse is None else grad_lse.contiguous()
    gradients = [torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device) for tensor in (q, k, v)]
    params = _abi.fa_backward_params(
        struct_size=ctypes.sizeof(_abi.fa_backward_params),
        device=_device(q),
        q=_view(q),
        k=_view(k),
        v=_view(v),
        o=_view(o),
        grad_o=_view(grad_o),
        grad_q=_view(gradients[0]),
        grad_k=_view(gradients[1]),
        grad_v=_view(gradients[2]),
        lse=_pointer(lse),
        grad_lse=_pointer(grad_lse),
        options=ctypes.pointer(options),
        stream=_stream(q),
    )
    native = library()
    _run(native.fa_attention_backward_workspace_size, native.fa_attention_backward, params, q)
    return tuple(gradients)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, options):
        o, lse = attention_forward(q, k, v, causal=options.causal, scale=options.scale, deterministic=options.deterministic, kernel=options.kernel)
        ctx.save_for_backward(q, k, v, o, lse)
        ctx.options = options
        ctx.set_materialize_grads(False)
        return o, lse

    @staticmethod
    def backward(ctx, grad_o, grad_lse):
        q, k, v, o, lse = ctx.saved_tensors
        options = ctx.options
        if grad_o is None:
            grad_o = torch.zeros_like(o)
        grads = attention_backward(
            q, k, v, o, grad_o, lse, grad_lse=grad_lse, causal=options.causal, scale=options.scale, deterministic=options.deterministic, kernel=options.kernel
        )
        return (*grads, None)


def attention(q, k, v, *, causal=None, scale=None, deterministic=False, return_lse=False, kernel="auto"):
    """Exact attention, differentiable in q, k and v (and through lse).

    Args:
        q: (batch, len_q, heads_q, head_dim), float32 (CPU only), float16 or bfloat16, on the CPU or on CUDA; any strides with contiguous head_dim.
        k: (batch, len_kv, heads_kv, head_dim), same dtype and device. heads_q must be a multiple of heads_kv (grouped-query attention).
        v: (batch, len_kv, heads_kv, head_dim_v).
        causal: None, "top_left" (query i sees key j iff j <= i) or "bottom_right" (iff j <= i + len_kv - len_q).
        scale: factor on the scores; None for 1/sqrt(head_dim).
        deterministic: True for bitwise repeatable gradients.
        return_lse: also return the log-sum-exp of each row, (batch, heads_q, len_q) float32, natural logarithm, -inf for a row that sees no key.
        kernel: "auto", or insist on "cpu", "sm80" or "sm90".

    Returns:
        o (batch, len_q, heads_q, head_dim_v), or (o, lse).

    Raises:
        FlashAttentionError: no kernel computes the problem, or a call failed; the message names the argument, what was expected and what came.
        ValueError, TypeError: an argument is no such tensor or option.

    CUDA work is queued on torch's current stream of the tensors' device.
    """
    o, lse = _Attention.apply(q, k, v, _Options(causal, scale, deterministic, kernel))
    return (o, lse) if return_lse else o


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


def describe(q, k, v, *, backward=False, causal=None, scale=None, deterministic=False, kernel="auto", assumed_compute_capability=0):
    """What would run for these tensors (their data is not read): a :class:`Plan`.

    assumed_compute_capability plans for an absent CUDA device, e.g. 90; otherwise the tensors' own device counts.
    """
    options = _Options(causal, scale, deterministic, kernel).native()
    device = _abi.fa_device(_abi.FA_DEVICE_CUDA, 0) if assumed_compute_capability else _device(q)
    params = _abi.fa_describe_params(
        struct_size=ctypes.sizeof(_abi.fa_describe_params),
        **{"pass": _abi.FA_PASS_BACKWARD if backward else _abi.FA_PASS_FORWARD},
        device=device,
        q=_view(q),
        k=_view(k),
        v=_view(v),
        options=ctypes.pointer(options),
        assumed_compute_capability=assumed_compute_capability,
    )
    description = _abi.fa_plan_description(struct_size=ctypes.sizeof(_abi.fa_plan_description))
    check(library().fa_attention_describe(ctypes.byref(params), ctypes.byref(description)))

    def text(value):
        return value.decode() if isinstance(value, bytes) else value

    return Plan(**{field: text(getattr(description, field)) for field in Plan.__dataclass_fields__})
