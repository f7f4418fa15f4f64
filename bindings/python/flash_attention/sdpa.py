"""A drop-in for torch.nn.functional.scaled_dot_product_attention."""

from .attention import attention


def scaled_dot_product_attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """Same call and meaning as ``torch.nn.functional.scaled_dot_product_attention``: tensors are (batch, heads, sequence, head_dim), is_causal aligns top-left.

    What these kernels do not compute is refused, never approximated: attn_mask must be None and dropout_p 0.

    Raises:
        NotImplementedError: attn_mask or dropout_p is given.
        ValueError: heads differ without enable_gqa, as in PyTorch.
    """
    if attn_mask is not None:
        raise NotImplementedError("attn_mask: expected None, got a mask; use is_causal, or attention(..., causal=...) for an explicit alignment")
    if dropout_p != 0.0:
        raise NotImplementedError(f"dropout_p: expected 0, got {dropout_p}")
    if not enable_gqa and query.shape[-3] != key.shape[-3]:
        raise ValueError(f"key: expected {query.shape[-3]} heads like query, got {key.shape[-3]}; set enable_gqa=True for grouped-query attention")
    # Leading dimensions beyond batch, or none, as PyTorch allows them.
    lead = query.shape[:-3]

    def as_bshd(tensor):
        return tensor.reshape(-1, *tensor.shape[-3:]).transpose(1, 2)

    o = attention(as_bshd(query), as_bshd(key), as_bshd(value), causal="top_left" if is_causal else None, scale=scale)
    return o.transpose(1, 2).reshape(*lead, query.shape[-3], query.shape[-2], value.shape[-1])
