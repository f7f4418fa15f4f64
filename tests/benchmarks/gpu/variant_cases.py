"""The problems of variants.py, and attention with their masks and scores in float64 from the definition, one head at a time.

A position of a problem is (batch, sequence, head): packed sequences are a problem of batch 1 whose documents do not see each other.
"""
import dataclasses
import math
import random
import typing

import torch

HEADS, DIM = 16, 128


@dataclasses.dataclass
class Problem:
    """One problem: what ours takes, what compiled FlexAttention takes, and what the reference needs."""

    name: str
    batch: int
    length: int
    # Visible pairs of one head of all batches.
    pairs: int
    # (b, rows, columns) -> (rows, columns) bool.
    visible: typing.Callable
    # Options of ours, as attention() of bindings/python names them; packed: ours takes batch * length positions of batch 1.
    options: dict
    packed: bool = False
    softcap: float = 0.0
    # (b, h, rows, columns) -> what is added to the scores.
    added: typing.Optional[typing.Callable] = None
    # Differentiable bias (1 or batch, heads, length, length).
    bias: typing.Optional[torch.Tensor] = None
    # FlexAttention's functions; None: no mask, scores as they are.
    mask_mod: typing.Optional[typing.Callable] = None
    score_mod: typing.Optional[typing.Callable] = None

    def flops(self, what):
        return (4 if what == "forward" else 10) * self.pairs * HEADS * DIM

    def samples(self):
        """The (batch, head) pairs that are checked."""
        return sorted({(0, 1), (self.batch - 1, HEADS - 1)})


def causal_pairs(length, window=None):
    window = min(window or length, length)
    return window * (window + 1) // 2 + (length - window) * window


def causal_visible(b, rows, columns):
    return columns <= rows


def causal_mask_mod(b, h, q, kv):
    return kv <= q


def causal(name, batch, length, **changes):
    fields = {"pairs": batch * causal_pairs(length), "visible": causal_visible, "options": {"causal": "bottom_right"}, "mask_mod": causal_mask_mod}
    return Problem(name, batch, length, **{**fields, **changes})


def full(name, batch, length, **changes):
    fields = {"pairs": batch * length**2, "visible": lambda b, rows, columns: torch.ones_like(rows * columns, dtype=torch.bool), "options": {}}
    return Problem(name, batch, length, **{**fields, **changes})


def alibi(batch, length, device):
    slopes = torch.exp2(-8.0 * torch.arange(1, HEADS + 1, device=device) / HEADS).float()
    return causal("alibi", batch, length, options={"causal": "bottom_right", "alibi_slopes": slopes},
                  added=lambda b, h, rows, columns: -slopes[h].double() * (rows - columns).abs(),
                  score_mod=lambda score, b, h, q, kv: score - slopes[h] * (q - kv))


def softcap(batch, length, device, cap=30.0):
    return causal("softcap", batch, length, softcap=cap, options={"causal": "bottom_right", "softcap": cap},
                  score_mod=lambda score, b, h, q, kv: cap * torch.tanh(score / cap))


def window(batch, length, device, size=1024):
    """Query i sees keys i - size + 1 … i."""
    return causal("window", batch, length, pairs=batch * causal_pairs(length, size),
                  visible=lambda b, rows, columns: (columns <= rows) & (rows - columns < size),
                  options={"causal": "bottom_right", "window": (size - 1, 0)}, mask_mod=lambda b, h, q, kv: (kv <= q) & (q - kv < size))


def document_lengths(batch, length, mean, generator):
    """Per batch entry: lengths of documents of about the mean, exponentially distributed, at least 16, that fill the entry."""
    result = []
    for _ in range(batch):
        lengths, left = [], length
        while left:
            taken = min(left, max(16, int(generator.expovariate(1 / mean))))
            lengths.append(taken if left - taken >= 16 else left)
            left -= lengths[-1]
        result.append(lengths)
    return result


def heavy_tail_lengths(total, mean, longest, generator):
    """Lengths with this total from a log-normal distribution of the mean, standard deviation 1.5 in the logarithm, cut at the longest."""
    lengths, left = [], total
    while left:
        lengths.append(min(left, longest, max(16, int(generator.lognormvariate(math.log(mean) - 1.5**2 / 2, 1.5)))))
        left -= lengths[-1]
    return lengths


def packed(name, lengths, device, is_causal):
    """Ours alone: sequences one behind the other."""
    offsets = torch.tensor([0] + lengths).cumsum(0)
    ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(device)
    options = {"cu_seqlens_q": offsets.int().to(device), "cu_seqlens_kv": offsets.int().to(device), "max_len_q": max(lengths), "max_len_kv": max(lengths)}
    if is_causal:
        options["causal"] = "bottom_right"
    return Problem(name, 1, sum(lengths), sum(causal_pairs(n) if is_causal else n * n for n in lengths),
                   lambda b, rows, columns: (ids[rows] == ids[columns]) & ((columns <= rows) | (not is_causal)), options, packed=True)


def documents(batch, length, device, mean=1024, block=128):
    """The same document mask four ways: FlexAttention's, and for ours packed sequences, a boolean mask, and a boolean mask with its block mask."""
    lengths = document_lengths(batch, length, mean, random.Random(1))
    ids = torch.stack([torch.repeat_interleave(torch.arange(len(x)), torch.tensor(x)) for x in lengths]).to(device)
    pairs = sum(n * n for x in lengths for n in x)
    visible = lambda b, rows, columns: ids[b][rows] == ids[b][columns]
    flat = packed("packed", [n for x in lengths for n in x], device, False)
    seen = (ids[:, :, None] == ids[:, None, :])[:, None].contiguous()
    blocks = torch.nn.functional.max_pool2d(seen.float(), block, ceil_mode=True) > 0
    as_flex = Problem("document", batch, length, pairs, visible, flat.options, True, mask_mod=lambda b, h, q, kv: ids[b, q] == ids[b, kv])
    return [as_flex, dataclasses.replace(as_flex, name="visible", options={"visible": seen}, packed=False),
            dataclasses.replace(as_flex, name="visible+blocks", options={"visible": seen, "block_mask": blocks, "block_size": (block, block)}, packed=False)]


def biased(name, batch, length, device, bias_batch):
    """An additive bias without other mask, its gradient wanted."""
    bias = torch.randn(bias_batch, HEADS, length, length, device=device, dtype=torch.float16 if device != "cpu" else torch.float32)
    at = (lambda b: b) if bias_batch > 1 else (lambda b: 0)
    score_mod = (lambda score, b, h, q, kv: score + bias[b, h, q, kv]) if bias_batch > 1 else (lambda score, b, h, q, kv: score + bias[0, h, q, kv])
    return full(name, batch, length, options={"bias": bias}, bias=bias, score_mod=score_mod,
                added=lambda b, h, rows, columns: bias[at(b), h][rows[:, 0]].double())


def reference(problem, q, k, v, grad_o, b, h):
    """o, lse, grad_q, grad_k, grad_v and grad_bias of a head in float64 (the bias's is the contribution of this batch entry); rows in chunks of 64 MiB."""
    chunk = max(1, 2**23 // problem.length)
    q, k, v, grad_o = (t[b, :, h].double() for t in (q, k, v, grad_o))
    scale = 1 / math.sqrt(q.shape[1])
    columns = torch.arange(problem.length, device=q.device)[None, :]
    result = {"o": torch.empty_like(q), "grad_q": torch.empty_like(q), "grad_k": torch.zeros_like(k), "grad_v": torch.zeros_like(v), "grad_bias": []}
    result["lse"] = torch.empty(problem.length, dtype=torch.float64, device=q.device)
    for at in range(0, problem.length, chunk):
        part = slice(at, min(at + chunk, problem.length))
        rows = torch.arange(part.start, part.stop, device=q.device)[:, None]
        s = scale * (q[part] @ k.T)
        if problem.softcap:
            s = problem.softcap * torch.tanh(s / problem.softcap)
        slope = 1 - (s / problem.softcap) ** 2 if problem.softcap else 1.0
        if problem.added is not None:
            s = s + problem.added(b, h, rows, columns)
        s = s.masked_fill(~problem.visible(b, rows, columns), -math.inf)
        result["lse"][part] = torch.logsumexp(s, -1)
        p = torch.exp(s - result["lse"][part, None])
        o = p @ v
        d_added = p * (grad_o[part] @ v.T - (grad_o[part] * o).sum(-1, keepdim=True))
        d_score = d_added * slope * scale
        result["o"][part], result["grad_q"][part] = o, d_score @ k
        result["grad_k"] += d_score.T @ q[part]
        result["grad_v"] += p.T @ grad_o[part]
        if problem.bias is not None:
            result["grad_bias"].append(d_added.float())
    result["grad_bias"] = torch.cat(result["grad_bias"]) if problem.bias is not None else None
    return result


def difference(got, exact):
    """Relative error of the norms, or of the worst row where that is 10 times larger than the whole's: infinite for NaN or infinity in got."""
    got, exact = got.double(), exact.double()
    if not bool(torch.isfinite(got).all()):
        return math.inf
    error = (got - exact).reshape(len(exact), -1).norm(dim=-1)
    size = exact.reshape(len(exact), -1).norm(dim=-1)
    rows = float((error / (size + size.square().mean().sqrt())).max())
    return max(float(error.norm() / size.norm()), rows / 10)
