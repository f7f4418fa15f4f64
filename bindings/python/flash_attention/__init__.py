"""Exact attention for PyTorch tensors on the CPU and on CUDA, forward and backward, through the C ABI of libflash_attention.

>>> from flash_attention import attention
>>> o = attention(q, k, v, causal="bottom_right")          # (batch, sequence, heads, head_dim)

with sliding windows, chunks, softcap, ALiBi, bias, sinks, boolean and block masks, dropout and packed or padded sequences; or, as a drop-in for
``torch.nn.functional.scaled_dot_product_attention``:

>>> from flash_attention import scaled_dot_product_attention
>>> o = scaled_dot_product_attention(q, k, v, is_causal=True)   # (batch, heads, sequence, head_dim)

The library is looked for in ``$FLASH_ATTENTION_LIBRARY``, beside this package, in the build folder of a source checkout, and where the system's loader looks.
"""

from ._library import FlashAttentionError, build_info, library_path, version
from .attention import Plan, attention, attention_backward, attention_forward, describe, dropout_mask
from .sdpa import scaled_dot_product_attention

__all__ = [
    "FlashAttentionError",
    "Plan",
    "attention",
    "attention_backward",
    "attention_forward",
    "build_info",
    "describe",
    "dropout_mask",
    "library_path",
    "scaled_dot_product_attention",
    "version",
]
__version__ = "0.2.0"
