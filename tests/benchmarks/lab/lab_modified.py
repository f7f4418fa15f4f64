#!/usr/bin/env python3
"""Laboratory of the Hopper backward kernels with modified scores: checks against attention written out in float64, times.

usage: lab_modified.py [--checks none|tiny|quick|full] [--times] NAME=LIBRARY …

LIBRARY: sm90_backward_modified.cu as a shared object, with the sources of kernels/sm90/backward_modified and what they call.
"""
import argparse
import ctypes
import itertools
import math
import os
import statistics
import sys
import time

import torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import gpu_state  # noqa: E402

TENSORS = ("q", "k", "v", "o", "grad_o", "grad_q", "grad_k", "grad_v")
MASKS = {"none": 0, "causal_tl": 1, "causal_br": 2, "window_tl": 3, "window_br": 4}


class LabCall(ctypes.Structure):
    """Mirrors LabCall of sm90_backward_modified.cu."""

    _fields_ = (
        [(n, ctypes.c_void_p) for n in TENSORS + ("lse", "grad_lse", "grad_sinks", "workspace")]
        + [(n, ctypes.c_int64) for n in ("batch", "len_q", "len_kv", "heads_q", "heads_kv", "head_dim", "head_dim_v")]
        + [("strides", ctypes.c_int64 * 3 * 8)]
        + [(n, ctypes.c_int64) for n in ("window_left", "window_right", "chunk", "alibi_batch_stride", "count", "max_len_q", "max_len_kv")]
        + [(n, ctypes.c_void_p) for n in ("alibi_slopes", "sinks", "cu_seqlens_q", "cu_seqlens_kv", "seqused_q", "seqused_kv")]
        + [(n, ctypes.c_float) for n in ("scale", "softcap")]
        + [(n, ctypes.c_int32) for n in ("mask", "is_bfloat16", "left_padded", "passes")]
    )


class Library:
    def __init__(self, path):
        self.lib = ctypes.CDLL(path)
        self.lib.lab_message.restype = ctypes.c_char_p
        self.lib.lab_workspace_bytes.restype = ctypes.c_int64

    def call(self, t, lse, options, grad_lse=None, passes=7):
        """t: tensors named in TENSORS, (batch, len, heads, head_dim) views. options: dict of a case. The workspace starts as NaN."""
        c = LabCall()
        for i, name in enumerate(TENSORS):
            setattr(c, name, t[name].data_ptr())
            c.strides[i] = (ctypes.c_int64 * 3)(*[t[name].stride(d) if t[name].shape[d] > 1 else 0 for d in range(3)])
        c.lse, c.grad_lse = lse.data_ptr(), grad_lse.data_ptr() if grad_lse is not None else None
        c.batch, c.len_q, c.heads_q, c.head_dim = t["q"].shape
        c.len_kv, c.heads_kv, c.head_dim_v = t["k"].shape[1], t["k"].shape[2], t["v"].shape[3]
        c.scale, c.mask, c.is_bfloat16, c.passes = options["scale"], MASKS[options["mask"]], int(t["q"].dtype == torch.bfloat16), passes
        c.window_left, c.window_right = options.get("window", (0, 0))
        c.chunk, c.softcap = options.get("chunk", 0), options.get("softcap", 0.0)
        if "slopes" in options:
            c.alibi_slopes, c.alibi_batch_stride = options["slopes"].data_ptr(), options["slopes"].stride(0) if options["slopes"].dim() == 2 else 0
        if "sinks" in options:
            c.sinks, c.grad_sinks = options["sinks"].data_ptr(), options["grad_sinks"].data_ptr()
        if "sequences" in options:
            s = options["sequences"]
            c.count, c.max_len_q, c.max_len_kv, c.left_padded = s["count"], s.get("max_len_q", 0), s.get("max_len_kv", 0), s.get("left_padded", 0)
            for n in ("cu_seqlens_q", "cu_seqlens_kv", "seqused_q", "seqused_kv"):
                setattr(c, n, s[n].data_ptr() if n in s else None)
        size = self.lib.lab_workspace_bytes(ctypes.byref(c))
        if size < 0:
            raise RuntimeError(self.lib.lab_message().decode())
        c.keep = torch.full((size // 4 + 64,), float("nan"), device="cuda")
        c.workspace = c.keep.data_ptr()
        return c

    def run(self, c):
        if self.lib.lab_run(ctypes.byref(c)):
            raise RuntimeError(self.lib.lab_message().decode())

    def time(self, c, repeats):
        out = (ctypes.c_float * repeats)()
        if self.lib.lab_time(ctypes.byref(c), repeats, out):
            raise RuntimeError(self.lib.lab_message().decode())
        return statistics.median(out)


def positions(len_q, len_kv, mask):
    return torch.arange(len_q, device="cuda") + (len_kv - len_q if mask.endswith("_br") else 0)


def visible(len_q, len_kv, options):
    pos, j = positions(len_q, len_kv, options["mask"])[:, None], torch.arange(len_kv, device="cuda")[None]
    seen = torch.ones(len_q, len_kv, dtype=torch.bool, device="cuda")
    if options["mask"].startswith("causal"):
        seen &= j <= pos
    if options["mask"].startswith("window"):
        left, right = options["window"]
        seen &= (j >= pos - left) if left >= 0 else True
        seen &= (j <= pos + right) if right >= 0 else True
    if options.get("chunk", 0):
        seen &= torch.div(pos, options["chunk"], rounding_mode="floor") == torch.div(j, options["chunk"], rounding_mode="floor")
    return seen


def reference(q, k, v, grad_o, grad_lse, options, sequence, exact=False):
    """One sequence, (len, heads, dim) each, in float64 with o rounded to the inputs' dtype. exact: products leave masked pairs out, so that NaN does not
    pass."""
    dtype = q.dtype
    q, k, v, grad_o = (t.double().transpose(0, 1) for t in (q, k, v, grad_o))
    group = q.shape[0] // k.shape[0]
    keys, values = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    seen = visible(q.shape[1], k.shape[1], options)
    raw = q @ keys.transpose(-1, -2) * options["scale"]
    s, slope = raw, 1.0
    if options.get("softcap", 0):
        t = torch.tanh(raw / options["softcap"])
        s, slope = options["softcap"] * t, 1 - t * t
    if "slopes" in options:
        slopes = options["slopes"][sequence] if options["slopes"].dim() == 2 else options["slopes"]
        pos = positions(q.shape[1], k.shape[1], options["mask"])[:, None]
        s = s - slopes.double()[:, None, None] * (pos - torch.arange(k.shape[1], device="cuda")[None]).abs()
    s = s.masked_fill(~seen, -math.inf)
    sink = options["sinks"].double()[:, None, None].expand(-1, q.shape[1], -1) if "sinks" in options else None
    lse = torch.logsumexp(torch.cat([s, sink], -1) if sink is not None else s, -1)
    p = torch.exp(s - lse.masked_fill(lse == -math.inf, 0)[..., None])
    inside = seen[None].expand_as(p)

    def product(a, b, pairs):  # sum over pairs that are there
        if not exact:
            return a @ b
        return torch.stack([torch.where(pairs[h][..., None], a[h][..., None] * b[h][None], 0.0).sum(-2) for h in range(a.shape[0])])

    o = product(p, values, inside).to(dtype).double()
    dp = grad_o @ values.transpose(-1, -2)
    delta = (grad_o * o).sum(-1) - (0 if grad_lse is None else grad_lse.double())
    delta = delta.masked_fill(lse == -math.inf, 0)
    ds = (p * (dp - delta[..., None]) * slope).masked_fill(~seen, 0)
    p = p.masked_fill(~seen, 0)
    grad_q = product(ds, keys, inside) * options["scale"]
    grad_k = product(ds.transpose(-1, -2), q, inside.transpose(-1, -2)) * options["scale"]
    grad_v = product(p.transpose(-1, -2), grad_o, inside.transpose(-1, -2))
    grad_k, grad_v = (g.unflatten(0, (-1, group)).sum(1) for g in (grad_k, grad_v))
    out = {"o": o, "grad_q": grad_q, "grad_k": grad_k, "grad_v": grad_v}
    out = {n: g.transpose(0, 1) for n, g in out.items()} | {"lse": lse}
    if sink is not None:
        weight = torch.exp(sink[..., 0] - lse)
        out["grad_sinks"] = -(weight * delta).masked_fill(lse == -math.inf, 0).sum(-1)
    return out


def poisoned(shape, dtype):
    return torch.full(shape, float("nan"), dtype=dtype, device="cuda")


def build(shape, options, dtype, extents=None, grad_lse=False, spoil=None, exact=False):
    """Inputs, and what the gradients must be. extents: per sequence (batch entry, q begin, q length, kv begin, kv length). Outside of them all inputs are
    NaN."""
    batch, len_q, len_kv, heads_q, heads_kv, dim, dim_v = shape
    make = lambda n, h, d: torch.randn(batch, n, h, d, device="cuda").to(dtype)
    t = {"q": make(len_q, heads_q, dim), "k": make(len_kv, heads_kv, dim), "v": make(len_kv, heads_kv, dim_v), "grad_o": make(len_q, heads_q, dim_v)}
    if spoil:
        spoil(t)
    extents = extents if extents is not None else [(b, 0, len_q, 0, len_kv) for b in range(batch)]
    want = {"o": torch.zeros(batch, len_q, heads_q, dim_v, device="cuda").double(), "grad_q": torch.zeros(t["q"].shape, device="cuda").double(),
            "grad_k": torch.zeros(t["k"].shape, device="cuda").double(), "grad_v": torch.zeros(t["v"].shape, device="cuda").double()}
    lse = torch.full((batch, heads_q, len_q), -math.inf, device="cuda")
    glse = torch.randn(batch, heads_q, len_q, device="cuda") if grad_lse else None
    inside_q, inside_kv = torch.zeros(batch, len_q, dtype=torch.bool, device="cuda"), torch.zeros(batch, len_kv, dtype=torch.bool, device="cuda")
    if "sinks" in options:
        want["grad_sinks"] = torch.zeros(heads_q, device="cuda").double()
    for index, (b, qb, ql, kb, kl) in enumerate(extents):
        inside_q[b, qb:qb + ql], inside_kv[b, kb:kb + kl] = True, True
        r = reference(t["q"][b, qb:qb + ql], t["k"][b, kb:kb + kl], t["v"][b, kb:kb + kl], t["grad_o"][b, qb:qb + ql],
                      None if glse is None else glse[b, :, qb:qb + ql], options, index, exact)
        for n in ("o", "grad_q"):
            want[n][b, qb:qb + ql] = r[n]
        for n in ("grad_k", "grad_v"):
            want[n][b, kb:kb + kl] = r[n]
        lse[b, :, qb:qb + ql] = r["lse"].float()
        if "sinks" in options:
            want["grad_sinks"] += r["grad_sinks"]
    for n, inside in (("q", inside_q), ("grad_o", inside_q), ("k", inside_kv), ("v", inside_kv)):
        t[n][~inside] = float("nan")
    o = want.pop("o").to(dtype)
    o[~inside_q] = float("nan")
    if glse is not None:
        glse.transpose(1, 2)[~inside_q] = float("nan")
    t |= {"o": o, "grad_q": poisoned(t["q"].shape, dtype), "grad_k": poisoned(t["k"].shape, dtype), "grad_v": poisoned(t["v"].shape, dtype)}
    return t, lse, glse, want


class Checker:
    def __init__(self, library, passes=7):
        self.library, self.passes, self.cases, self.failures, self.worst = library, passes, 0, [], {}

    def case(self, name, shape, options, dtype=torch.float16, repeats=1, **how):
        torch.manual_seed(self.cases)
        options = {"scale": shape[5] ** -0.5, "mask": "none"} | options
        if "sinks" in options:
            options["grad_sinks"] = poisoned((shape[3],), torch.float32)
        t, lse, glse, want = build(shape, options, dtype, **how)
        call = self.library.call(t, lse, options, glse, self.passes)
        for _ in range(repeats):
            for n in ("grad_q", "grad_k", "grad_v"):
                t[n].fill_(float("nan"))
            self.library.run(call)
        torch.cuda.synchronize()
        self.cases += 1
        eps = 2.0 ** -11 if dtype == torch.float16 else 2.0 ** -8
        for n, exact in want.items():
            got = (options["grad_sinks"] if n == "grad_sinks" else t[n]).double()
            finite = torch.isfinite(exact)
            if exact.numel() == 0:
                continue
            if not bool((torch.isfinite(got) == finite).all()):
                wrong = (torch.isfinite(got) != finite).nonzero()
                self.failures.append(f"{name} {n}: {wrong.shape[0]} elements wrongly (not) finite, first {wrong[0].tolist()}")
                continue
            error, size = (got - exact)[finite], exact[finite]
            scale = float(size.abs().max()) if size.numel() else 0.0
            relative = float(error.norm() / size.norm()) if scale > 0 else float(error.abs().sum())
            largest = float(error.abs().max() / scale) if scale > 0 else float(error.abs().sum())
            self.worst[n] = max(self.worst.get(n, 0.0), relative / eps)
            if not (relative <= 2.0 * eps and largest <= 6.0 * eps):
                self.failures.append(f"{name} {n}: relative error {relative:.2e}, largest {largest:.2e} of {scale:.2e}")


def random_lengths(count, longest, generator):
    return [int(x) for x in torch.randint(0, longest + 1, (count,), generator=generator)]


def packed(lengths_q, lengths_kv, used_q=None, used_kv=None, left=False):
    """Options and extents of packed sequences."""
    dev = lambda x: torch.tensor(x, dtype=torch.int32, device="cuda")
    cq, ckv = list(itertools.accumulate(lengths_q, initial=0)), list(itertools.accumulate(lengths_kv, initial=0))
    s = {"count": len(lengths_q), "cu_seqlens_q": dev(cq), "cu_seqlens_kv": dev(ckv)}
    s |= {"max_len_q": max(lengths_q), "max_len_kv": max(lengths_kv), "left_padded": int(left)}
    uq, ukv = used_q or lengths_q, used_kv or lengths_kv
    if used_q:
        s["seqused_q"] = dev(used_q)
    if used_kv:
        s["seqused_kv"] = dev(used_kv)
    begin = lambda places, lengths, used, i: places[i] + (lengths[i] - used[i] if left else 0)
    return s, [(0, begin(cq, lengths_q, uq, i), uq[i], begin(ckv, lengths_kv, ukv, i), ukv[i]) for i in range(len(lengths_q))]


def padded(len_q, len_kv, used_q, used_kv, left=False):
    dev = lambda x: torch.tensor(x, dtype=torch.int32, device="cuda")
    s = {"count": len(used_q), "seqused_q": dev(used_q), "seqused_kv": dev(used_kv), "left_padded": int(left)}
    return s, [(b, len_q - used_q[b] if left else 0, used_q[b], len_kv - used_kv[b] if left else 0, used_kv[b]) for b in range(len(used_q))]


def check(library, full, passes):
    c = Checker(library, passes)
    slopes = lambda h, b=0: 2.0 ** -(torch.rand((b, h) if b else (h,), device="cuda") * 6 + 1)
    ranges = [
        {"mask": "window_br", "window": (64, 0)},
        {"mask": "window_tl", "window": (100, 30)},
        {"mask": "window_br", "window": (-1, 17)},
        {"mask": "window_tl", "window": (129, -1)},
        {"mask": "causal_br", "chunk": 96},
        {"mask": "none", "chunk": 128},
        {"mask": "window_br", "window": (50, 3), "chunk": 200},
        {"mask": "causal_tl"},
        {"mask": "none"},
    ]
    shapes = [(2, 300, 300, 2, 2, 128, 128), (1, 129, 513, 4, 2, 128, 128), (1, 513, 200, 4, 1, 128, 96), (2, 256, 384, 2, 1, 64, 64)]
    if full:
        shapes += [(1, 65, 127, 3, 3, 40, 64), (1, 1, 300, 2, 1, 128, 128), (1, 300, 1, 2, 1, 128, 128)]
    all_extras = [{}, {"sinks": 1}, {"softcap": 3.0}, {"slopes": 1}, {"slopes": 2, "sinks": 1}]
    for dtype in (torch.float16, torch.bfloat16):
        for shape, options in itertools.product(shapes, ranges):
            for extra in all_extras if full else [({}, {"softcap": 3.0, "sinks": 1}, {"slopes": 2})[c.cases % 3]]:
                o = options | extra
                if "sinks" in o:
                    o["sinks"] = torch.randn(shape[3], device="cuda")
                if "slopes" in o:
                    o["slopes"] = slopes(shape[3], shape[0] if o["slopes"] == 2 else 0)
                text = {k: (v if not torch.is_tensor(v) else list(v.shape)) for k, v in o.items()}
                c.case(f"{str(dtype)[6:]} {shape} {text}", shape, o, dtype, grad_lse=c.cases % 2 == 0)
    # Rows whose visible keys are all far away.
    for mask, dtype in itertools.product(("none", "causal_tl"), (torch.float16, torch.bfloat16)):
        c.case(f"far {str(dtype)[6:]} {mask}", (1, 4000, 100, 4, 2, 128, 128), {"mask": mask, "slopes": slopes(4)}, dtype)
    # Windows of some tiles, at all offsets, whose ends different halves of a key tile see.
    ends = (((1, 700, 700, 4, 2, 128, 128), (255, 0)), ((2, 513, 700, 2, 1, 128, 96), (320, 64)), ((1, 900, 640, 2, 2, 96, 128), (127, 0)),
            ((1, 640, 640, 2, 2, 128, 128), (128, 128)))
    for dtype, (shape, window) in itertools.product((torch.float16, torch.bfloat16), ends):
        for mask, extra in (("window_br", {}), ("window_tl", {}), ("window_br", {"chunk": 333}), ("window_tl", {"slopes": 1})):
            o = {"mask": mask, "window": window} | extra
            if "slopes" in o:
                o["slopes"] = slopes(shape[3])
            c.case(f"ends {str(dtype)[6:]} {shape} {mask} {window} {list(extra)}", shape, o, dtype, grad_lse=c.cases % 2 == 0, repeats=1 + c.cases % 2)
    print(f"ranges, ALiBi, softcap, sinks: {c.cases} cases, {len(c.failures)} failures; worst relative errors in eps {c.worst}", flush=True)
    before = c.cases
    g = torch.Generator().manual_seed(5)
    masks = ({"mask": "causal_br"}, {"mask": "none"}, {"mask": "window_tl", "window": (70, 20)})
    for dtype, dim, left, mask in itertools.product((torch.float16, torch.bfloat16), (128, 64), (False, True), masks):
        for extra in ({}, {"softcap": 2.0, "sinks": 1}, {"slopes": 2}):
            lq, lk = random_lengths(6, 300, g), random_lengths(6, 300, g)
            lq[2], lk[3], lq[4], lk[4] = 0, 0, 128, 256
            uq, uk = [int(x * 0.8) for x in lq], [int(x * 0.7) for x in lk]
            variants = [packed(lq, lk), packed(lq, lk, uq, uk, left)]
            o = mask | extra
            if "sinks" in o:
                o["sinks"] = torch.randn(4, device="cuda")
            for s, extents in variants[0 if full else 1:]:
                if "slopes" in o:
                    o["slopes"] = slopes(4, 6)
                name = f"packed {str(dtype)[6:]} d{dim} left {left} {mask} {list(extra)} {lq} {lk}"
                c.case(name, (1, sum(lq), sum(lk), 4, 2, dim, dim), o | {"sequences": s}, dtype, extents=extents)
            uq, uk = random_lengths(3, 270, g), random_lengths(3, 200, g)
            s, extents = padded(270, 200, uq, uk, left)
            if "slopes" in o:
                o["slopes"] = slopes(4, 3)
            name = f"padded {str(dtype)[6:]} d{dim} left {left} {mask} {list(extra)} {uq} {uk}"
            c.case(name, (3, 270, 200, 4, 2, dim, dim), o | {"sequences": s}, dtype, extents=extents, grad_lse=True)
    print(f"sequences: {c.cases - before} cases, {len(c.failures)} failures in all", flush=True)
    before = c.cases

    def spoiler(name, row, value):
        def spoil(t):
            t[name][0, row, 0, 3] = value
        return spoil

    masks = (
        {"mask": "window_br", "window": (40, 0)},
        {"mask": "window_tl", "window": (20, 20), "softcap": 2.0},
        {"mask": "causal_br", "slopes": slopes(2)},
        {"mask": "none"},
    )
    for name, value, options in itertools.product(("q", "k", "v", "grad_o"), (math.nan, math.inf), masks):
        if value == math.inf and "softcap" in options:
            continue
        c.case(f"{value} in {name} {options}", (1, 150, 200, 2, 1, 128 if c.cases % 2 else 64, 64), options, spoil=spoiler(name, 70, value), exact=True)
    print(f"NaN and infinity: {c.cases - before} cases, {len(c.failures)} failures in all", flush=True)
    # Enough heads that grad_q is finished inside the main kernel.
    before = c.cases
    problems = (
        ((1, 1500, 1300, 64, 64, 128, 128), {"mask": "window_br", "window": (400, 0)}),
        ((1, 1300, 1500, 64, 64, 128, 64), {"mask": "causal_tl", "softcap": 3.0}),
        ((2, 700, 1500, 64, 32, 64, 64), {"mask": "causal_br", "slopes": slopes(64)}),
        ((2, 1500, 200, 128, 64, 40, 64), {"mask": "none", "chunk": 500}),
    )
    for dtype, (shape, options) in itertools.product((torch.float16, torch.bfloat16), problems):
        for repeats in (1, 6):
            c.case(f"many heads {str(dtype)[6:]} {shape} {options['mask']}", shape, options, dtype, repeats=repeats)
    print(f"many heads: {c.cases - before} cases, {len(c.failures)} failures in all", flush=True)
    for text in c.failures[:12]:
        print("FAILED", text[:230])
    return not c.failures


def check_tiny(library):
    """A few small cases with everything in them, for compute-sanitizer."""
    c, g = Checker(library), torch.Generator().manual_seed(3)
    slopes, sinks = 2.0 ** -torch.arange(1, 5, device="cuda").float(), torch.randn(4, device="cuda")
    for dim, extra in ((128, {}), (64, {"softcap": 2.0}), (128, {"slopes": slopes, "sinks": sinks})):
        c.case(f"window d{dim}", (1, 300, 420, 4, 2, dim, dim), {"mask": "window_br", "window": (130, 20)} | extra)
        s, extents = packed([200, 0, 77, 300], [150, 10, 140, 260])
        c.case(f"packed d{dim}", (1, 577, 560, 4, 2, dim, dim), {"mask": "causal_br", "sequences": s} | extra, extents=extents)
    print(f"tiny: {c.cases} cases, {len(c.failures)} failures", *c.failures[:3])
    return not c.failures


def attention_state(t, options, scale):
    """o and lse of long sequences, head by head in fp32: good enough to time with."""
    batch, len_q, heads, _ = t["q"].shape
    group = heads // t["k"].shape[2]
    o, lse = torch.empty_like(t["grad_o"]), torch.empty(batch, heads, len_q, device="cuda")
    seen = visible(len_q, t["k"].shape[1], options)
    keys = torch.arange(t["k"].shape[1], device="cuda")
    distance = (positions(len_q, len(keys), options["mask"])[:, None] - keys[None]).abs().float() if "slopes" in options else None
    for b, h in itertools.product(range(batch), range(heads)):
        s = (t["q"][b, :, h] @ t["k"][b, :, h // group].T).float() * scale
        if options.get("softcap", 0):
            s = options["softcap"] * torch.tanh(s / options["softcap"])
        if distance is not None:
            s -= options["slopes"][h] * distance
        s.masked_fill_(~seen, -math.inf)
        lse[b, h] = torch.logsumexp(s, -1)
        o[b, :, h] = torch.softmax(s, -1).to(o.dtype) @ t["v"][b, :, h // group]
    return o, lse, int(seen.sum())


def times(libraries, seconds):
    print("TFLOP/s of visible pairs (10 flops per pair and column), B2 H16 S8192 fp16, in turns; behind: milliseconds of prepare, finish and repair")
    print(f"{'':28}" + " ".join(f"{n:>10}" for n in libraries))
    names = {
        "window 1024 causal": {"mask": "window_br", "window": (1023, 0)},
        "ALiBi causal": {"mask": "causal_br", "slopes": 1},
        "causal": {"mask": "causal_br"},
        "softcap 30 causal": {"mask": "causal_br", "softcap": 30.0},
        "full": {"mask": "none"},
        "sinks causal": {"mask": "causal_br", "sinks": 1},
        "chunk 1024 causal": {"mask": "causal_br", "chunk": 1024},
        "window 1024 both": {"mask": "window_br", "window": (512, 512)},
        "ALiBi full": {"mask": "none", "slopes": 1},
    }
    started = time.time()
    for dim, (name, options) in itertools.product((128, 64), names.items()):
        if time.time() - started > seconds:
            print("out of time: cells left out")
            return False
        heads = 2048 // dim
        options = {"scale": dim ** -0.5} | options
        t = {n: torch.randn(2, 8192, heads, dim, device="cuda", dtype=torch.float16) for n in ("q", "k", "v", "grad_o")}
        if "slopes" in options:
            options["slopes"] = 2.0 ** (-8.0 * torch.arange(1, heads + 1, device="cuda") / heads)
        o, lse, pairs = attention_state(t, options, options["scale"])
        if "sinks" in options:
            options |= {"sinks": torch.randn(heads, device="cuda"), "grad_sinks": torch.empty(heads, device="cuda")}
        t |= {"o": o} | {n: torch.empty_like(t["q"]) for n in ("grad_q", "grad_k", "grad_v")}
        columns, around = {}, []
        for _ in range(3):
            for n, library in libraries.items():
                if n == "plain" and (dim != 128 or len(options) > 2):
                    continue
                call = library.call(t, lse, options, passes={"plain": 15, "outside": 23}.get(n, 7))
                library.time(call, 1)
                columns.setdefault(n, []).append(library.time(call, 6))
        for passes in (1, 4):
            call = library.call(t, lse, options)
            library.run(call)
            call.passes = passes
            around.append(library.time(call, 5))
        flops = 10.0 * 2 * heads * pairs * dim
        cells = " ".join(f"{flops / (statistics.median(columns[n]) * 1e9):10.0f}" if n in columns else 10 * " " for n in libraries)
        print(f"d={dim:3} {name:22} {cells}   {around[0]:.3f} {around[1]:.3f}  {gpu_state.now()}", flush=True)
    return True


def heavy_tail(total, mean, longest, generator):
    """Lengths of a log-normal distribution that add up to total."""
    lengths = []
    while sum(lengths) < total:
        n = int(min(longest, max(1, math.exp(float(torch.randn((), generator=generator)) * 1.2 + math.log(mean) - 0.72))))
        lengths.append(min(n, total - sum(lengths)))
    return lengths


def sequence_times(library):
    dim, heads = 128, 16
    g = torch.Generator().manual_seed(11)
    lengths = heavy_tail(65536, 1024, 16384, g)
    print(f"{len(lengths)} packed sequences, longest {max(lengths)}, mean {sum(lengths) / len(lengths):.0f}, d=128, 16 heads")
    for mask in ("none", "causal_br"):
        options = {"scale": dim ** -0.5, "mask": mask}
        t = {n: torch.randn(1, 65536, heads, dim, device="cuda", dtype=torch.float16) for n in ("q", "k", "v", "grad_o")}
        s, extents = packed(lengths, lengths)
        o, lse, pairs = torch.empty_like(t["q"]), torch.empty(1, heads, 65536, device="cuda"), 0
        for _, begin, length, _, _ in extents:
            part = {n: x[:, begin:begin + length] for n, x in t.items()}
            o[:, begin:begin + length], lse[:, :, begin:begin + length], seen = attention_state(part, options, options["scale"])
            pairs += seen
        t |= {"o": o} | {n: torch.empty_like(t["q"]) for n in ("grad_q", "grad_k", "grad_v")}
        call = library.call(t, lse, options | {"sequences": s})
        library.run(call)
        library.time(call, 2)
        ms = library.time(call, 10)
        print(f"packed {mask:10} {10.0 * heads * pairs * dim / (ms * 1e9):6.0f} TFLOP/s  {ms:.3f} ms; mean pairs per query {pairs / 65536:.0f}", flush=True)
        # Dense of the same pairs per query: batch entries of equal length.
        length = max(128, int(pairs / 65536 * (2 if mask != "none" else 1)) // 128 * 128)
        batch = 65536 // length
        d = {n: x[:, :batch * length].view(batch, length, heads, dim) for n, x in t.items()}
        o, dense_lse, seen = attention_state(d, options, options["scale"])
        d["o"] = o
        call = library.call(d, dense_lse, options)
        library.run(call)
        library.time(call, 2)
        ms = library.time(call, 10)
        print(f"dense  {mask:10} {10.0 * heads * batch * seen * dim / (ms * 1e9):6.0f} TFLOP/s  {ms:.3f} ms at {batch} x {length}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", nargs="+", help="NAME=FILE; the last is checked, all are timed; plain: the plain kernel, outside: --outside")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--checks", choices=["none", "tiny", "quick", "full"], default="quick")
    parser.add_argument("--times", action="store_true")
    parser.add_argument("--outside", action="store_true", help="checks with grad_q finished in a pass of its own")
    options = parser.parse_args()
    libraries = {text.partition("=")[0]: Library(text.partition("=")[2]) for text in options.library}
    library = list(libraries.values())[-1]
    sound = True
    if options.checks == "tiny":
        sound = check_tiny(library)
    elif options.checks != "none":
        sound = check(library, options.checks == "full", 23 if options.outside else 7)
    if options.times:
        if times(libraries, options.seconds):
            sequence_times(library)
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
