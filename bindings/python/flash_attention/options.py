"""Options of attention on PyTorch tensors, as the C ABI takes them."""

import ctypes
import math
import numbers
from dataclasses import dataclass, fields

import torch

from . import _abi

DTYPES = {
    torch.float32: _abi.FA_DTYPE_FLOAT32,
    torch.float16: _abi.FA_DTYPE_FLOAT16,
    torch.bfloat16: _abi.FA_DTYPE_BFLOAT16,
    torch.uint8: _abi.FA_DTYPE_UINT8,
}
_CAUSAL = {None: _abi.FA_MASK_NONE, "top_left": _abi.FA_MASK_CAUSAL_TOP_LEFT, "bottom_right": _abi.FA_MASK_CAUSAL_BOTTOM_RIGHT}
_WINDOW = {None: _abi.FA_MASK_WINDOW_TOP_LEFT, "top_left": _abi.FA_MASK_WINDOW_TOP_LEFT, "bottom_right": _abi.FA_MASK_WINDOW_BOTTOM_RIGHT}
_KERNELS = {"auto": _abi.FA_KERNEL_AUTO, "cpu": _abi.FA_KERNEL_CPU, "sm80": _abi.FA_KERNEL_SM80, "sm90": _abi.FA_KERNEL_SM90}


def view(tensor):
    """A tensor as fa_tensor: sizes and strides in the order of its dimensions."""
    result = _abi.fa_tensor(data=tensor.data_ptr(), dtype=DTYPES[tensor.dtype])
    result.sizes[:] = tensor.shape
    result.strides[:] = tensor.stride()
    return result


def pointer(tensor, kind=ctypes.c_float):
    """Address of a tensor's data; NULL for None."""
    return ctypes.cast(ctypes.c_void_p(tensor.data_ptr() if tensor is not None else None), ctypes.POINTER(kind))


@dataclass(frozen=True)
class Options:
    """What attention() takes besides q, k and v; see there."""

    causal: object = None
    scale: object = None
    deterministic: bool = False
    kernel: str = "auto"
    window: object = None
    chunk: int = 0
    softcap: object = None
    alibi_slopes: object = None
    bias: object = None
    visible: object = None
    block_mask: object = None
    block_size: object = None
    sinks: object = None
    dropout_p: float = 0.0
    dropout_seed: object = None
    dropout_offset: int = 0
    cu_seqlens_q: object = None
    cu_seqlens_kv: object = None
    max_len_q: object = None
    max_len_kv: object = None
    seqused_q: object = None
    seqused_kv: object = None
    left_padded: bool = False

    @staticmethod
    def names():
        return [field.name for field in fields(Options)]

    def native(self, q):
        """(fa_attention_options, list of what it points to)."""
        kept = []
        self._check_scalars()
        options = _abi.fa_attention_options(
            struct_size=ctypes.sizeof(_abi.fa_attention_options),
            mask=_CAUSAL[self.causal],
            scale=0.0 if self.scale is None else self.scale,
            deterministic=int(self.deterministic),
            kernel=_KERNELS[self.kernel],
            chunk=self.chunk,
            softcap=0.0 if self.softcap is None else self.softcap,
            dropout=self.dropout_p,
            dropout_seed=self.dropout_seed or 0,
            dropout_offset=self.dropout_offset,
        )
        if self.window is not None:
            left, right = self.window
            options.mask = _WINDOW[self.causal]
            options.window_left = -1 if left is None else left
            options.window_right = 0 if self.causal is not None else -1 if right is None else right
        self._add_vectors(options, q, kept)
        self._add_pairs(options, q, kept)
        self._add_sequences(options, q, kept)
        return options, kept

    def _check_scalars(self):
        if self.causal not in _CAUSAL:
            raise ValueError(f'causal: expected None, "top_left" or "bottom_right", got {self.causal!r}')
        if self.kernel not in _KERNELS:
            raise ValueError(f"kernel: expected one of {', '.join(_KERNELS)}, got {self.kernel!r}")
        for name in ("scale", "softcap"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, numbers.Real) and math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: expected a finite number > 0 or None, got {value!r}")
        if not isinstance(self.dropout_p, numbers.Real):
            raise TypeError(f"dropout_p: expected a number, got {self.dropout_p!r}")
        for name in ("chunk", "dropout_seed", "dropout_offset", "max_len_q", "max_len_kv"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, numbers.Integral):
                raise TypeError(f"{name}: expected an integer, got {value!r}")
        if self.window is not None and not _is_pair(self.window, (numbers.Integral, type(None))):
            raise ValueError(f"window: expected (left, right), integers or None, got {self.window!r}")
        if self.window is not None and self.causal is not None and self.window[1] not in (None, 0):
            raise ValueError(f"window: expected a right side of None or 0 with causal={self.causal!r}, got {self.window[1]!r}")

    def _add_vectors(self, options, q, kept):
        heads = q.shape[2]
        if self.alibi_slopes is not None:
            count = self.cu_seqlens_q.shape[0] - 1 if self.cu_seqlens_q is not None else q.shape[0]
            slopes = _checked("alibi_slopes", self.alibi_slopes, q, torch.float32, [(heads,), (count, heads)]).contiguous()
            kept.append(slopes)
            options.alibi_slopes = pointer(slopes)
            options.alibi_batch_stride = heads if slopes.dim() == 2 else 0
        if self.sinks is not None:
            sinks = _checked("sinks", self.sinks, q, torch.float32, [(heads,)]).contiguous()
            kept.append(sinks)
            options.sinks = pointer(sinks)

    def _add_pairs(self, options, q, kept):
        for name, field in (("bias", "bias"), ("visible", "visible"), ("block_mask", "block_mask")):
            tensor = getattr(self, name)
            if tensor is None:
                continue
            if not isinstance(tensor, torch.Tensor):
                raise TypeError(f"{name}: expected a torch.Tensor, got {type(tensor).__name__}")
            if tensor.dim() != 4:
                raise ValueError(f"{name}: expected 4 dimensions (batch, heads, queries, keys), got shape {tuple(tensor.shape)}")
            if tensor.device != q.device:
                raise ValueError(f"{name}: expected a tensor on {q.device} like q, got one on {tensor.device}")
            if name != "bias" and tensor.dtype not in (torch.bool, torch.uint8):
                raise ValueError(f"{name}: expected bool or uint8, got {tensor.dtype}")
            if name == "bias" and tensor.dtype not in (torch.float32, q.dtype):
                like = "" if q.dtype == torch.float32 else f" or {q.dtype} like q"
                raise ValueError(f"bias: expected float32{like}, got {tensor.dtype}")
            tensor = tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor.detach()
            tensor = tensor if tensor.size(3) <= 1 or tensor.stride(3) == 1 else tensor.contiguous()
            native = view(tensor)
            kept += [tensor, native]
            setattr(options, field, ctypes.pointer(native))
        if self.block_mask is not None:
            if not _is_pair(self.block_size, numbers.Integral):
                raise ValueError(f"block_size: expected (queries, keys) of a block with block_mask, got {self.block_size!r}")
            options.block_q, options.block_kv = self.block_size

    def _add_sequences(self, options, q, kept):
        arrays = {name: getattr(self, name) for name in ("cu_seqlens_q", "cu_seqlens_kv", "seqused_q", "seqused_kv")}
        if all(array is None for array in arrays.values()):
            return
        packed = arrays["cu_seqlens_q"] is not None
        if packed and (self.max_len_q is None or self.max_len_kv is None):
            raise ValueError("max_len_q, max_len_kv: expected the lengths of the longest sequences with cu_seqlens, got None")
        count = arrays["cu_seqlens_q"].shape[0] - 1 if packed else q.shape[0]
        native = _abi.fa_sequences(
            struct_size=ctypes.sizeof(_abi.fa_sequences),
            left_padded=int(self.left_padded),
            count=count,
            max_len_q=self.max_len_q if packed else 0,
            max_len_kv=self.max_len_kv if packed else 0,
        )
        for name, array in arrays.items():
            if array is not None:
                array = _checked(name, array, q, torch.int32, [(count + 1,) if name.startswith("cu") else (count,)]).contiguous()
                kept.append(array)
                setattr(native, name, pointer(array, ctypes.c_int32))
        kept.append(native)
        options.sequences = ctypes.pointer(native)


def _is_pair(value, kinds):
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(part, kinds) for part in value)


def _checked(name, tensor, q, dtype, shapes):
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(tensor).__name__}")
    if tensor.dtype != dtype or tuple(tensor.shape) not in shapes or tensor.device != q.device:
        raise ValueError(f"{name}: expected {dtype} {' or '.join(map(str, shapes))} on {q.device}, got {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}")
    return tensor.detach()
