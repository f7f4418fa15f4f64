"""A drop-in for torch.nn.functional.scaled_dot_product_attention."""

import torch

from .attention import attention


def scaled_dot_product_attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """Same call and meaning as ``torch.nn.functional.scaled_dot_product_attention``: tensors are (batch, heads, sequence, head_dim), is_causal aligns top-left.

    attn_mask is boolean (True where a query sees a key) or a number added to the scores, whose gradient is computed where it is required; it broadcasts as in
    PyTorch. dropout_p draws its seed from torch's default generator, so that ``torch.manual_seed`` makes it repeatable; the pairs that it drops are not those
    that PyTorch would drop. Where PyTorch gives NaN, for a query that sees no key, the output is 0.

    Raises:
        ValueError: heads differ without enable_gqa, or attn_mask and is_causal are given together, as in PyTorch.
        FlashAttentionError: no kernel of the tensors' device computes it.
    """
    if attn_mask is not None and is_causal:
        raise ValueError("is_causal: expected False with attn_mask, got True; put the diagonal into the mask")
    if not enable_gqa and query.shape[-3] != key.shape[-3]:
        raise ValueError(f"key: expected {query.shape[-3]} heads like query, got {key.shape[-3]}; set enable_gqa=True for grouped-query attention")
    # Leading dimensions beyond batch, or none, as PyTorch allows them.
    lead = query.shape[:-3]

    def as_bshd(tensor):
        return tensor.reshape(-1, *tensor.shape[-3:]).transpose(1, 2)

    options = {"causal": "top_left" if is_causal else None, "scale": scale, "dropout_p": dropout_p}
    if attn_mask is not None:
        options["visible" if attn_mask.dtype == torch.bool else "bias"] = _as_pairs(attn_mask, lead, key.shape[-2])
    o = attention(as_bshd(query), as_bshd(key), as_bshd(value), **options)
    return o.transpose(1, 2).reshape(*lead, query.shape[-3], query.shape[-2], value.shape[-1])


def _as_pairs(mask, lead, len_kv):
    """(batch, heads, queries, keys) with 1 where the mask broadcasts, except over keys."""
    mask = mask.reshape((1,) * (4 - mask.dim()) + tuple(mask.shape)) if mask.dim() < 4 else mask
    if mask.shape[-1] != len_kv:
        mask = mask.expand(*mask.shape[:-1], len_kv)
    if mask.dim() > 4 or (len(lead) != 1 and mask.shape[0] != 1):
        mask = mask.expand(*lead, *mask.shape[-3:]).reshape(-1, *mask.shape[-3:])
    return mask
