"""Attention with variants in float64 from the definition, forward, and the rule by which check_variants.py compares with it."""
import math

import torch

from checking import EPS, distances, finite_elsewhere, shown_pairs

# Rounding error of results below the smallest normal number: behind a sink that outweighs all keys, O may be far less.
LEAST = {torch.float16: 2.0**-25, torch.bfloat16: 2.0**-134}


def sequence_spans(q, k, o):
    """(batch entry, first query, queries, first key, keys) of every sequence."""
    if "cu_seqlens_q" in o:
        cu_q, cu_kv = o["cu_seqlens_q"].tolist(), o["cu_seqlens_kv"].tolist()
        places = [(0, cu_q[i], cu_q[i + 1] - cu_q[i], cu_kv[i], cu_kv[i + 1] - cu_kv[i]) for i in range(len(cu_q) - 1)]
    else:
        places = [(i, 0, q.shape[1], 0, k.shape[1]) for i in range(q.shape[0])]
    spans = []
    for i, (b, q0, n_q, k0, n_kv) in enumerate(places):
        used_q = o["seqused_q"][i].item() if "seqused_q" in o else n_q
        used_kv = o["seqused_kv"][i].item() if "seqused_kv" in o else n_kv
        left = o.get("left_padded")
        spans.append((b, q0 + (n_q - used_q if left else 0), used_q, k0 + (n_kv - used_kv if left else 0), used_kv))
    return spans


def kept_pairs(batch, heads, len_q, len_kv, probability, seed):
    """(heads, len_q, len_kv): which pairs dropout keeps. Philox4x32-10 in 64-bit integers; products wrap, their bits stay right."""
    low = 0xFFFFFFFF
    i = torch.arange(len_q, device="cuda")[None, :, None]
    j = torch.arange(len_kv, device="cuda")[None, None, :]
    head = (batch * heads + torch.arange(heads, device="cuda"))[:, None, None]
    c = [x.expand(heads, len_q, len_kv) for x in (j // 4, i, head, torch.zeros_like(head))]
    key = [seed & low, seed >> 32]
    for _ in range(10):
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(b >> 32 & low) ^ c[1] ^ key[0], b & low, (a >> 32 & low) ^ c[3] ^ key[1], a & low]
        key = [key[0] + 0x9E3779B9 & low, key[1] + 0xBB67AE85 & low]
    word = torch.stack(c).gather(0, (j % 4).expand(1, heads, len_q, len_kv))[0]
    return word >= int(probability * 2**32)


def one_sequence(q, k, v, index, o):
    """o (len_q, heads, d_v), lse (heads, len_q) and where they are finite, of one sequence in float64. Hidden NaN and infinity are not read."""
    (len_q, heads, d), len_kv = q.shape, k.shape[0]
    seen = shown_pairs(index, heads, len_q, len_kv, o)
    s = torch.einsum("ihd,jhd->hij", q, k) * (o.get("scale") or d**-0.5)
    if o.get("softcap"):
        s = o["softcap"] * torch.tanh(s / o["softcap"])
    if "bias" in o:
        bias = o["bias"][index % o["bias"].shape[0]].double()
        s = s + bias[:, :len_q, :len_kv]
        seen = seen & (bias[:, :len_q, :len_kv] != -math.inf)
    if "alibi_slopes" in o:
        slopes = o["alibi_slopes"][index] if o["alibi_slopes"].dim() == 2 else o["alibi_slopes"]
        s = s - slopes.double()[:, None, None] * distances(len_q, len_kv, o)
    s = s.masked_fill(~seen, -math.inf)
    if "sinks" in o:
        s = torch.cat([s, o["sinks"].double()[:, None, None].expand(heads, len_q, 1)], 2)
    lse = torch.logsumexp(s, 2) if s.shape[2] else torch.full((heads, len_q), -math.inf, dtype=torch.float64, device="cuda")
    p = torch.exp(s - lse.masked_fill(lse == -math.inf, 0)[:, :, None])[:, :, :len_kv]
    p = torch.where(seen, p, torch.zeros_like(p))
    if o.get("dropout_p"):
        p = p * kept_pairs(index, heads, len_q, len_kv, o["dropout_p"], o["dropout_seed"]) / (1 - o["dropout_p"])
    finite_v = torch.where(v.isfinite(), v, torch.zeros_like(v))
    out = torch.einsum("hij,jhd->ihd", p, finite_v)
    reached = torch.einsum("hij,jhd->ihd", seen.double(), (~v.isfinite()).double()) > 0
    return out.masked_fill(reached, math.nan), lse


def exact(q, k, v, o):
    group = q.shape[2] // k.shape[2]
    q, k, v = q.double(), k.double().repeat_interleave(group, 2), v.double().repeat_interleave(group, 2)
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=torch.float64, device="cuda")
    lse = torch.full((q.shape[0], q.shape[2], q.shape[1]), -math.inf, dtype=torch.float64, device="cuda")
    for index, (b, q0, n_q, k0, n_kv) in enumerate(sequence_spans(q, k, o)):
        if n_q > 0:
            out[b, q0:q0 + n_q], lse[b, :, q0:q0 + n_q] = one_sequence(q[b, q0:q0 + n_q], k[b, k0:k0 + n_kv], v[b, k0:k0 + n_kv], index, o)
    return out, lse


def compare(out, lse, want_out, want_lse, dtype, v, tolerance):
    finite, elsewhere = want_out.isfinite(), finite_elsewhere(out, want_out)
    if elsewhere:
        return elsewhere
    error = (out.double() - want_out)[finite].abs()
    largest_v = float(v[v.isfinite()].abs().max()) if bool(v.isfinite().any()) else 1.0
    worst, norm = (float(error.max()), float(want_out[finite].norm())) if error.numel() else (0.0, 0.0)
    if not worst <= 3 * EPS[dtype] * largest_v * tolerance:
        return f"largest error {worst:.2e}, allowed {3 * EPS[dtype] * largest_v * tolerance:.2e}"
    if norm > 0 and not float(error.norm()) <= 1.5 * EPS[dtype] * tolerance * norm + LEAST[dtype] * math.sqrt(error.numel()):
        return f"relative error {float(error.norm()) / norm:.2e}, allowed {1.5 * EPS[dtype] * tolerance:.2e}"
    known = want_lse.isfinite()
    if not bool((lse.isfinite() == known).all()) or not bool((lse[want_lse == -math.inf] == -math.inf).all()):
        wrong = (lse.isfinite() != known).nonzero()
        return f"log-sum-exp is finite where it must not be, or the reverse, first {wrong[0].tolist() if len(wrong) else '?'}"
    off = ((lse.double() - want_lse)[known].abs() / want_lse[known].abs().clamp(min=1.0))
    worst = float(off.max()) if off.numel() else 0.0
    return f"log-sum-exp off by {worst:.2e}" if not worst <= 2e-5 * tolerance else None
