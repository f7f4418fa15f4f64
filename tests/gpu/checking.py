"""What the checks on the GPU share: guarded tensors, which pairs see each other, gradients in float64 from the definition, and the account of cases.

Options of a case are a dict of arguments of attention() in bindings/python.
"""
import math
import sys

import torch

# Rounding of the formats.
EPS = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
FENCE = 7.0


def around(shape, dtype, value):
    """A view of this shape inside a larger tensor of the value, rows a multiple of 16 bytes; and the larger one."""
    a, b, c, d = shape
    room = torch.full((a, b + 1, c + 2, (d + 7) // 8 * 8 + 8), value, device="cuda", dtype=dtype)
    return room[:, :b, :c, :d], room


def written_outside(view, room):
    """Whether what lay around a view has changed from FENCE; the view is overwritten."""
    view.fill_(FENCE)
    return not bool((room == FENCE).all())


def positions(len_q, len_kv, o):
    """The queries' positions among the keys (len_q, 1), and the keys' (1, len_kv)."""
    offset = len_kv - len_q if o.get("causal") == "bottom_right" else 0
    return torch.arange(len_q, device="cuda")[:, None] + offset, torch.arange(len_kv, device="cuda")[None, :]


def distances(len_q, len_kv, o):
    """(len_q, len_kv): those of ALiBi."""
    position, key = positions(len_q, len_kv, o)
    return (position - key).abs()


def seen_pairs(len_q, len_kv, o):
    """(len_q, len_kv): causal mask, window and chunk."""
    position, key = positions(len_q, len_kv, o)
    seen = torch.ones(len_q, len_kv, dtype=torch.bool, device="cuda")
    if o.get("causal"):
        seen &= key <= position
    if o.get("window"):
        left, right = o["window"]
        seen &= (left is None or left < 0) | (key >= position - (left or 0))
        seen &= (right is None or right < 0) | (key <= position + (right or 0))
    if o.get("chunk"):
        seen &= torch.div(position, o["chunk"], rounding_mode="floor") == torch.div(key, o["chunk"], rounding_mode="floor")
    return seen


def shown_pairs(index, heads, len_q, len_kv, o):
    """(heads, len_q, len_kv) of a batch entry or sequence: boolean and block masks too."""
    shown = seen_pairs(len_q, len_kv, o).expand(heads, len_q, len_kv)
    if "visible" in o:
        shown = shown & o["visible"][index % o["visible"].shape[0]].ne(0)[:, :len_q, :len_kv]
    if "block_mask" in o:
        size_q, size_kv = o["block_size"]
        blocks = o["block_mask"][index % o["block_mask"].shape[0]].ne(0).repeat_interleave(size_q, 1).repeat_interleave(size_kv, 2)
        shown = shown & blocks[:, :len_q, :len_kv]
    return shown


def document_mask(planes, len_q, len_kv, mean):
    """(planes, 1, len_q, len_kv): pairs of the same document, whose lengths average `mean`."""
    ids = (torch.rand(planes, max(len_q, len_kv), device="cuda") < 1 / mean).cumsum(1)
    return (ids[:, :len_q, None] == ids[:, None, :len_kv])[:, None]


def one_odd_pair(len_q, len_kv, value):
    """All pairs alike but for one of each 64 x 128, a different one each time."""
    row, key = torch.arange(len_q, device="cuda")[:, None], torch.arange(len_kv, device="cuda")[None, :]
    unit = row // 64 * 13 + key // 128 * 5
    odd = (row % 64 == 63 - unit * 7 % 64) & (key % 128 == 127 - unit * 29 % 128)
    return (odd == value)[None, None]


def slopes(*shape):
    """Random slopes of ALiBi."""
    return torch.rand(*shape, device="cuda") * 0.5


def product(pairs, rows, seen):
    """Sum over the last index of pairs; where `seen` is given, pairs that are not there add nothing, whatever the rows hold."""
    if seen is None:
        return pairs @ rows
    return torch.stack([torch.where(seen[h][..., None], pairs[h][..., None] * rows[h][None], 0.0).sum(-2) for h in range(pairs.shape[0])])


def reference(q, k, v, grad_o, seen, exact=False, bias=None, sinks=None, grad_lse=None, out=None):
    """Of one batch entry in float64, (length, heads, dim) each: o rounded to the inputs' type (or `out`, if given), lse, gradients; that of the bias per head.

    seen, bias: (heads, len_q, len_kv), the bias what is added to the scores. exact: sums leave out what is not seen, so that its NaN reaches nothing.
    """
    dtype, group = q.dtype, q.shape[1] // k.shape[1]
    q, k, v, grad_o = (t.double().transpose(0, 1) for t in (q, k, v, grad_o))
    keys, values, scale = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0), q.shape[2]**-0.5
    s = q @ keys.transpose(1, 2) * scale
    s = (s if bias is None else s + bias).masked_fill(~seen, -math.inf)
    sink = None if sinks is None else sinks.double()[:, None, None].expand(-1, s.shape[1], 1)
    lse = torch.logsumexp(s if sink is None else torch.cat([s, sink], 2), 2)
    p = torch.exp(s - lse.masked_fill(lse == -math.inf, 0)[..., None]).masked_fill(~seen, 0)
    pairs, turned = (seen, seen.transpose(1, 2)) if exact else (None, None)
    out = product(p, values, pairs).to(dtype) if out is None else out.transpose(0, 1)
    delta = ((grad_o * out.double()).sum(2) - (0 if grad_lse is None else grad_lse.double())).masked_fill(lse == -math.inf, 0)
    ds = (p * (grad_o @ values.transpose(1, 2) - delta[..., None])).masked_fill(~seen, 0)
    per_key = lambda t: t.view(k.shape[0], group, *t.shape[1:]).sum(1).transpose(0, 1)
    found = {"o": out.transpose(0, 1), "lse": lse, "grad_q": (product(ds, keys, pairs) * scale).transpose(0, 1),
             "grad_k": per_key(product(ds.transpose(1, 2), q, turned) * scale), "grad_v": per_key(product(p.transpose(1, 2), grad_o, turned)), "grad_bias": ds}
    if sink is not None:
        found["grad_sinks"] = -(torch.exp(sink[..., 0] - lse) * delta).masked_fill(lse == -math.inf, 0).sum(1)
    return found


def finite_elsewhere(got, want):
    """None, or where NaN and infinity stand otherwise than they must."""
    wrong = (got.isfinite() != want.isfinite()).nonzero()
    return f"finite where it must not be or the reverse: {len(wrong)} elements, first {wrong[0].tolist()}" if len(wrong) else None


def case_text(name, b, len_q, len_kv, heads_q, heads_kv, d, dv, dtype, *more):
    """A case in words, as --only searches them."""
    return " ".join(map(str, (name, f"b{b} q{len_q} kv{len_kv} h{heads_q}/{heads_kv} d{d}/{dv or d} {str(dtype)[6:]}", *more)))


def shapes_of(o):
    """Options for a case's text: of tensors the shapes."""
    return {n: (tuple(x.shape) if isinstance(x, torch.Tensor) else x) for n, x in o.items()}


class Tally:
    """Counts cases, and prints the first `most` that are wrong. only: part of the text of the cases that are wanted."""

    def __init__(self, only, most=15):
        self.only, self.most, self.cases, self.failures = only, most, 0, 0

    def wants(self, text):
        return self.only in text

    def fail(self, text, wrong):
        self.failures += 1
        if self.failures <= self.most:
            print(f"  {text}: {wrong}", flush=True)

    def judge(self, text, compute, fatal=("CUDA",), longest=None):
        """Counts a case of which compute() lists what is wrong. An error with one of the words `fatal` in it ends the program."""
        self.cases += 1
        try:
            wrong = compute()
        except Exception as error:  # noqa: BLE001
            wrong = [str(error)]
            if any(word in wrong[0] for word in fatal):
                sys.exit(f"{text}: {wrong[0]}")
        if wrong:
            self.fail(text, "; ".join(wrong)[:longest])

    def verdict(self):
        """The exit code: 1 if a case is wrong, or if none was wanted."""
        if self.cases == 0:
            print(f"no case has '{self.only}' in its text")
        return 1 if self.failures or self.cases == 0 else 0
