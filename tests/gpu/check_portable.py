#!/usr/bin/env python3
"""Checks the CUDA kernels of a built library against PyTorch in float64 (attention written out from its definition).

usage: FLASH_ATTENTION_LIBRARY=…/libflash_attention.so python3 check_portable.py [--kernel sm80]
           [--quick | --sanitized | --head-dim-512] [--large] [--seed N]

Every case: random inputs that differ per head, outputs poisoned with NaN, NaN in guard bands around every tensor; forward and backward. An element passes if
its error is at most twice the worst error of the unfused computation in the same dtype plus one rounding of the format at the tensor's scale; NaN never passes.
"""
import argparse
import itertools
import math
import sys

import torch

from checking import EPS, seen_pairs
from fa_ctypes import Library

GUARD = 512  # elements of NaN on either side of a tensor


def guarded(batch, length, heads, dim, dtype, layout, fill=None, pad=0):
    """A (batch, length, heads, dim) view with NaN all around it; layout: bshd, bhsd, or packed (a slice of three interleaved tensors). pad: odd stride."""
    order = {"bshd": (batch, length, heads, dim), "bhsd": (batch, heads, length, dim), "packed": (batch, length, 3 * heads, dim)}[layout]
    row = dim + pad
    numel = math.prod(order[:3]) * row
    flat = torch.full((numel + 2 * GUARD,), float("nan"), dtype=dtype, device="cuda")
    t = flat[GUARD:GUARD + numel].view(*order[:3], row)[..., :dim]
    if layout == "bhsd":
        t = t.transpose(1, 2)
    elif layout == "packed":
        t = t[:, :, heads:2 * heads]
    if fill is not None:
        t.copy_(fill)
    return t, flat


def visible(len_q, len_kv, mask):
    return seen_pairs(len_q, len_kv, {} if mask == "none" else {"causal": mask})


def reference(q, k, v, grad_o, grad_lse, mask, scale, dtype):
    """o, lse and gradients from the definition. In a 16-bit dtype every step is rounded, as the unfused form does on a device."""
    q, k, v, grad_o = (t.to(dtype).transpose(1, 2) for t in (q, k, v, grad_o))
    group = q.shape[1] // k.shape[1]
    keys, values = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    seen = visible(q.shape[2], k.shape[2], mask)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    s = ((q @ keys.transpose(-1, -2)).to(wide) * scale).masked_fill(~seen, -math.inf)
    lse = torch.logsumexp(s, -1) if s.shape[-1] else torch.full(s.shape[:-1], -math.inf, dtype=wide, device="cuda")
    p = torch.exp(s - lse.masked_fill(lse == -math.inf, 0)[..., None])
    o = p.to(dtype) @ values
    dp = (grad_o @ values.transpose(-1, -2)).to(wide)
    delta = (grad_o.to(wide) * o.to(wide)).sum(-1) - (0 if grad_lse is None else grad_lse.to(wide))
    ds = (p * (dp - delta[..., None])).masked_fill(~seen, 0).to(dtype)
    grad_q = (ds @ keys).to(wide) * scale
    grad_k = (ds.transpose(-1, -2) @ q).to(wide) * scale
    grad_v = p.to(dtype).transpose(-1, -2) @ grad_o
    grad_k, grad_v = (g.unflatten(1, (-1, group)).to(wide).sum(2) for g in (grad_k, grad_v))
    return {"o": o.transpose(1, 2), "lse": lse, "grad_q": grad_q.transpose(1, 2), "grad_k": grad_k.transpose(1, 2), "grad_v": grad_v.transpose(1, 2)}


def finite_pattern(q, k, v, grad_o, mask):
    """Where results are finite: a NaN or infinity reaches what is computed from pairs that see each other, and nothing else."""
    bad = {n: ~torch.isfinite(t.transpose(1, 2)) for n, t in (("q", q), ("k", k), ("v", v), ("grad_o", grad_o))}
    group = q.shape[2] // k.shape[2]
    for n in ("k", "v"):
        bad[n] = bad[n].repeat_interleave(group, 1)
    seen = visible(q.shape[1], k.shape[1], mask)

    def reaches(pairs, elements):  # (…, i, j) and (…, j, c) -> (…, i, c)
        return (pairs.double() @ elements.double()) > 0

    rows = {n: t.any(-1) for n, t in bad.items()}
    lse = (seen & (rows["q"][..., :, None] | rows["k"][..., None, :])).any(-1)
    p = seen & lse[..., None]
    o = lse[..., None] | reaches(seen.expand_as(p), bad["v"])
    delta = o.any(-1) | rows["grad_o"]
    ds = p | (seen & (delta[..., None] | rows["v"][..., None, :]))
    seen = seen.expand_as(p)
    grad_q = ds.any(-1)[..., None] | reaches(seen, bad["k"])
    grad_k = ds.any(-2)[..., None] | reaches(seen.transpose(-1, -2), bad["q"])
    grad_v = p.any(-2)[..., None] | reaches(seen.transpose(-1, -2), bad["grad_o"])
    grad_k, grad_v = (g.unflatten(1, (-1, group)).any(2) for g in (grad_k, grad_v))
    pattern = {n: ~t.transpose(1, 2) for n, t in (("o", o), ("grad_q", grad_q), ("grad_k", grad_k), ("grad_v", grad_v))}
    return pattern | {"lse": ~lse}


def worst(got, exact):
    """Largest error; infinite unless NaN and infinities stand at the same places."""
    got, exact = got.double(), exact.double()
    if got.numel() == 0:
        return 0.0
    special = ~torch.isfinite(exact)
    same = (got.isnan() == exact.isnan()) & ((got == exact) | exact.isnan() | ~special) & (torch.isfinite(got) == torch.isfinite(exact))
    if not bool(same.all()):
        return math.inf
    return float((got - exact).masked_fill(special, 0).abs().max())


class Checker:
    def __init__(self, library, kernel):
        self.library, self.kernel = library, kernel
        self.failures, self.cases, self.worst_ratio = [], 0, 0.0

    def case(self, batch, len_q, len_kv, heads_q, heads_kv, dim, dim_v, dtype, mask="none", layout="bshd", pad=0, grad_lse=False, amplitude=1.0, scale=None,
             deterministic=False, poison=None, creep=0.0):
        name = (f"b{batch} q{len_q} kv{len_kv} h{heads_q}/{heads_kv} d{dim}/{dim_v} {str(dtype)[6:]} {mask} {layout}+{pad} lse{int(grad_lse)} "
                f"amp{amplitude} det{int(deterministic)} {poison or ''} creep{creep}")
        self.cases += 1
        scale = scale or 1 / math.sqrt(dim)
        shapes = {"q": (len_q, heads_q, dim), "k": (len_kv, heads_kv, dim), "v": (len_kv, heads_kv, dim_v), "grad_o": (len_q, heads_q, dim_v)}
        values = {n: torch.randn(batch, *s, device="cuda") * (amplitude if n in "qk" else 1) for n, s in shapes.items()}
        if creep:  # logits fall by so much from one group of 64 keys to the next: a kernel that starts at the last key sees them creep up
            values["q"][..., 0] = 4.0
            values["k"][..., 0] = -creep / 4.0 / scale * (torch.arange(len_kv, device="cuda") / 64.0)[None, :, None]
        if poison:
            self.poison(values, poison, len_q, len_kv)
        ins = {n: guarded(batch, *shapes[n], dtype, layout, values[n].to(dtype), pad)[0] for n in shapes}
        g_lse = torch.randn(batch, heads_q, len_q, device="cuda") if grad_lse else None
        outs = {n: guarded(batch, *shapes[s], dtype, layout, None, pad) for n, s in
                (("o", "grad_o"), ("grad_q", "q"), ("grad_k", "k"), ("grad_v", "v"))}
        lse_flat = torch.full((batch * heads_q * len_q + 128,), float("nan"), device="cuda")
        lse = lse_flat[64:64 + batch * heads_q * len_q].view(batch, heads_q, len_q)
        o = outs["o"][0]
        try:
            self.library.forward_call(ins["q"], ins["k"], ins["v"], o, lse, mask, scale, self.kernel)()
            arguments = (ins["q"], ins["k"], ins["v"], o, ins["grad_o"], lse, outs["grad_q"][0], outs["grad_k"][0], outs["grad_v"][0], mask, scale,
                         deterministic, self.kernel, g_lse)
            self.library.backward_call(*arguments)()
            torch.cuda.synchronize()
        except RuntimeError as error:
            self.failures.append(f"{name}: {error}")
            return
        got = {n: t for n, (t, _) in outs.items()} | {"lse": lse}
        self.compare(name, got, ins, g_lse, mask, scale, dtype, poison)
        for n, (t, flat) in outs.items():  # nothing outside the tensor may have been written
            written = int((~flat.isnan()).sum())
            if written > int((~t.isnan()).sum()):
                self.failures.append(f"{name}: {n} wrote outside")
        if int((~lse_flat.isnan()).sum()) > int((~lse.isnan()).sum()):
            self.failures.append(f"{name}: lse wrote outside")
        if deterministic:
            first = [outs[n][0].clone() for n in ("grad_q", "grad_k", "grad_v")]
            for _ in range(3):
                self.library.backward_call(*arguments)()
            if not all(torch.equal(a.view(torch.int16), outs[n][0].contiguous().view(torch.int16)) for a, n in
                       zip((f.contiguous() for f in first), ("grad_q", "grad_k", "grad_v"))):
                self.failures.append(f"{name}: gradients differ from run to run")

    @staticmethod
    def poison(values, kind, len_q, len_kv):
        name, row = kind.split("@")
        tensor, what = name.split(":")
        values[tensor][:, int(row), :, 3] = float(what)

    def compare(self, name, got, ins, g_lse, mask, scale, dtype, poison):
        if poison:
            pattern = finite_pattern(ins["q"], ins["k"], ins["v"], ins["grad_o"], mask)
            for n in got:
                differs = (torch.isfinite(got[n]) != pattern[n]).nonzero()
                if len(differs):
                    self.failures.append(f"{name}: {n} is finite elsewhere than expected at {len(differs)} elements, first {differs[0].tolist()}")
            return
        exact = reference(ins["q"], ins["k"], ins["v"], ins["grad_o"], g_lse, mask, scale, torch.float64)
        naive = reference(ins["q"], ins["k"], ins["v"], ins["grad_o"], g_lse, mask, scale, dtype)
        for n in got:
            error, allowed = worst(got[n], exact[n]), 2 * worst(naive[n].to(dtype) if n != "lse" else naive[n], exact[n])
            finite = exact[n][torch.isfinite(exact[n])]
            rounding = (EPS[dtype] if n != "lse" else 1e-5) * (float(finite.abs().max()) if finite.numel() else 0.0) + 1e-6
            if math.isinf(allowed):
                # The unfused form overflowed. Scores are recomputed against a log-sum-exp in fp32: P is off by its rounding, relative to the scores' size.
                score = float(ins["q"].abs().max()) * float(ins["k"].abs().max()) * scale * ins["q"].shape[-1]
                allowed = 2.0**-22 * score * (float(ins["k"].abs().max()) if n.startswith("grad") else 1.0)
            if not error <= allowed + rounding:
                self.failures.append(f"{name}: {n} error {error:.3e} > {allowed:.3e} + {rounding:.3e}")
            elif allowed + rounding > 0:
                self.worst_ratio = max(self.worst_ratio, error / (allowed + rounding))


def run(checker, quick):
    f16, b16 = torch.float16, torch.bfloat16
    dims = [64, 128, 256] if quick else [64, 128, 256, 192, 8, 40, 80, 96, 136, 160, 200, 248]
    for dim, mask, dtype in itertools.product(dims, ("none", "bottom_right", "top_left"), (f16, b16)):
        checker.case(2, 129, 193, 2, 2, dim, dim, dtype, mask)
    edges = [1, 63, 64, 65, 127, 128, 129] if not quick else [1, 64, 129]
    for (len_q, len_kv), mask in itertools.product(itertools.product(edges, edges), ("none", "bottom_right", "top_left")):
        checker.case(1, len_q, len_kv, 3, 1, 64, 64, f16, mask)
    for len_q, len_kv in ((0, 5), (5, 0), (0, 0), (1, 1000), (1000, 1), (300, 40), (40, 300)):
        for mask, dim in itertools.product(("none", "bottom_right", "top_left"), (64, 128)):
            checker.case(2, len_q, len_kv, 4, 2, dim, dim, b16, mask, grad_lse=True)
    checker.case(0, 5, 5, 2, 2, 64, 64, f16)
    for dim, dim_v in ((64, 128), (128, 64), (192, 128), (40, 256), (256, 8)):
        checker.case(1, 200, 300, 4, 2, dim, dim_v, f16, "bottom_right")
    for layout, pad in (("bhsd", 0), ("packed", 0), ("bshd", 8), ("bshd", 1), ("bhsd", 3), ("packed", 5)):
        for dim in (64, 128, 256):
            checker.case(2, 150, 170, 6, 2, dim, dim, f16, "bottom_right", layout, pad)
    for group in (1, 4, 8):
        checker.case(2, 257, 257, 8, 8 // group, 128, 128, b16, "bottom_right", grad_lse=True)
    for amplitude in (8.0, 100.0):
        checker.case(1, 256, 256, 2, 2, 64, 64, f16, "none", amplitude=amplitude)
        checker.case(1, 256, 256, 2, 2, 128, 128, b16, "bottom_right", amplitude=amplitude)
    for dim, creep in itertools.product((64, 128, 192, 256), (0.3, 0.6, 1.3)):
        checker.case(1, 130, 2500, 2, 2, dim, dim, f16, creep=creep)
        checker.case(1, 130, 900, 2, 2, dim, dim, b16 if creep == 0.6 else f16, "bottom_right", creep=creep)
    for dim in (64, 128, 192, 256):
        for mask in ("none", "bottom_right"):
            checker.case(2, 1000, 1030, 4, 2, dim, dim, f16, mask, deterministic=True)
            checker.case(1, 2049, 2049, 4, 4, dim, dim, b16, mask)
    for dim in (64, 128, 192, 256):
        for what in ("nan", "inf"):
            checker.case(1, 300, 300, 2, 1, dim, dim, f16, "bottom_right", poison=f"v:{what}@200")
        for kind in ("k:nan@200", "q:nan@100", "grad_o:nan@100", "v:nan@299", "q:nan@0"):
            checker.case(1, 300, 300, 2, 1, dim, dim, f16, "bottom_right", poison=kind)
            checker.case(1, 300, 300, 2, 1, dim, dim, b16, "bottom_right", poison=kind, deterministic=True)
    if not quick:
        run_many_tiles(checker)
        run_shared_rounds(checker)


def run_many_tiles(checker):
    """So many query tiles that the Hopper forward kernel takes its large tile at head_dim 128: five rounds of blocks under a causal mask and more than 512 keys,
    without a mask more than 1024 keys and a last round that is fuller than with smaller tiles."""
    f16, b16 = torch.float16, torch.bfloat16
    for i, (len_q, len_kv) in enumerate(((385, 513), (400, 575), (449, 577), (513, 640), (576, 560), (577, 577))):
        checker.case(2, len_q, len_kv, 110, 22, 128, 128, b16 if i % 2 else f16, "top_left" if i % 3 == 2 else "bottom_right", grad_lse=i == 1)
    checker.case(2, 380, 1100, 33, 11, 128, 128, f16)
    checker.case(1, 570, 1281, 44, 44, 96, 128, b16)
    checker.case(2, 520, 520, 110, 110, 80, 72, f16, "bottom_right", "packed")
    checker.case(2, 530, 530, 110, 10, 128, 128, f16, "bottom_right", amplitude=8.0)
    for kind in ("v:nan@500", "k:nan@200"):
        checker.case(2, 530, 530, 110, 10, 128, 128, f16, "bottom_right", poison=kind)


def run_shared_rounds(checker):
    """Query tiles for a little more than one round of 132 blocks, and enough keys: the Hopper forward kernel shares the last round along the keys."""
    f16, b16 = torch.float16, torch.bfloat16
    for dim, dtype in ((128, f16), (120, b16), (64, b16), (256, f16)):
        rows = 128 if dim > 128 else 192
        checker.case(1, 47 * rows - 1, 4090, 4, 2, dim, dim, dtype, amplitude=3.0 if dim == 120 else 1.0)
        checker.case(2, 10 * rows - 130, 6000, 7, 7, dim, dim, dtype, layout="bhsd")
    for kind in ("v:nan@100", "k:nan@4000", "q:nan@9000"):
        checker.case(1, 47 * 192, 4096, 4, 2, 128, 128, f16, poison=kind)
    checker.case(1, 47 * 192, 4096, 4, 2, 128, 128, b16, creep=1.3)


def run_head_dim_512(checker):
    """head_dim or head_dim_v of more than 256."""
    f16, b16 = torch.float16, torch.bfloat16
    for dim, mask, dtype in itertools.product((264, 320, 384, 504, 512), ("none", "bottom_right", "top_left"), (f16, b16)):
        checker.case(2, 129, 193, 2, 2, dim, dim, dtype, mask)
    edges = (1, 15, 16, 17, 31, 32, 33, 65)
    for (len_q, len_kv), mask in itertools.product(itertools.product(edges, edges), ("none", "bottom_right", "top_left")):
        checker.case(1, len_q, len_kv, 3, 1, 512, 512, f16, mask)
    for (len_q, len_kv), mask in itertools.product(((0, 5), (5, 0), (0, 0), (1, 1000), (1000, 1), (300, 40), (40, 300)), ("none", "bottom_right", "top_left")):
        checker.case(2, len_q, len_kv, 4, 2, 512, 512, b16, mask, grad_lse=True)
    for dim, dim_v in ((512, 8), (8, 512), (512, 256), (256, 264), (320, 512), (264, 128)):
        checker.case(1, 200, 300, 4, 2, dim, dim_v, f16, "bottom_right")
        checker.case(1, 200, 300, 4, 2, dim, dim_v, b16, "none", pad=8, deterministic=True)
    for layout, pad in (("bhsd", 0), ("packed", 0), ("bshd", 8), ("bshd", 1), ("bhsd", 3), ("packed", 5)):
        for dim in (512, 328):
            checker.case(2, 150, 170, 6, 2, dim, dim, f16, "bottom_right", layout, pad)
    for amplitude, dtype in itertools.product((8.0, 100.0), (f16, b16)):
        checker.case(1, 256, 256, 2, 2, 512, 512, dtype, "bottom_right", amplitude=amplitude)
    for creep, mask in itertools.product((0.3, 0.6, 1.3), ("none", "bottom_right")):
        checker.case(1, 130, 900, 2, 2, 512, 512, f16, mask, creep=creep)
    for mask in ("none", "bottom_right"):
        checker.case(2, 1000, 1030, 4, 2, 512, 512, f16, mask, deterministic=True)
        checker.case(1, 2049, 2049, 4, 4, 512, 512, b16, mask)
    for kind in ("v:nan@200", "v:inf@200", "k:nan@200", "q:nan@100", "grad_o:nan@100", "v:nan@299", "q:nan@0"):
        checker.case(1, 300, 300, 2, 1, 512, 512, f16, "bottom_right", poison=kind)
        checker.case(1, 300, 300, 2, 1, 320, 512, b16, "bottom_right", poison=kind)


def run_sanitized(checker):
    """Few, small cases that reach every kernel and path: for compute-sanitizer."""
    for dim in (64, 128, 192, 256):
        checker.case(1, 70, 150, 2, 1, dim, dim, torch.float16, "bottom_right", grad_lse=True)
        checker.case(1, 130, 66, 1, 1, dim, dim - 8, torch.bfloat16, "none", deterministic=True)
    checker.case(1, 65, 65, 2, 2, 128, 128, torch.float16, "top_left", "packed", 5)
    checker.case(1, 140, 140, 1, 1, 64, 64, torch.float16, "bottom_right", poison="v:nan@130")
    checker.case(1, 140, 140, 1, 1, 128, 128, torch.float16, "bottom_right", poison="k:nan@130")
    checker.case(1, 140, 140, 1, 1, 128, 128, torch.float16, "bottom_right", poison="q:nan@3")


def large(library, kernel):
    """A tensor of more than 2^31 elements, and a sequence of 131072 forward and backward; compared on samples of rows."""
    failures = []
    q = torch.randn(1, 256, 1, 128, device="cuda", dtype=torch.float16).expand(2, -1, -1, -1)
    big = torch.randn(2, 131072 + 128, 68, 128, device="cuda", dtype=torch.float16)  # 2.28e9 elements
    k, v = big[:, :, 66:67], big[:, :, 67:68]
    o = torch.full(q.shape, float("nan"), device="cuda", dtype=torch.float16)
    library.forward_call(q, k, v, o, None, "none", kernel=kernel)()
    for b in range(2):
        exact = torch.softmax(q[b, :, 0].double() @ k[b, :, 0].double().T / math.sqrt(128), -1) @ v[b, :, 0].double()
        error = float((o[b, :, 0].double() - exact).abs().max())
        if not error < 1e-3:
            failures.append(f"2^31 elements, batch {b}: error {error}")
    del big, k, v
    shape = (1, 131072, 16, 128)
    q, k, v, grad_o = (torch.randn(shape, device="cuda", dtype=torch.float16) for _ in range(4))
    o, grad_q, grad_k, grad_v = (torch.full(shape, float("nan"), device="cuda", dtype=torch.float16) for _ in range(4))
    lse = torch.empty(1, 16, shape[1], device="cuda")
    library.forward_call(q, k, v, o, lse, "bottom_right", kernel=kernel)()
    library.backward_call(q, k, v, o, grad_o, lse, grad_q, grad_k, grad_v, "bottom_right", kernel=kernel)()
    for head, row in ((0, 131071), (15, 70001)):
        kd, vd = k[0, :row + 1, head].double(), v[0, :row + 1, head].double()
        p = torch.softmax(kd @ q[0, row, head].double() / math.sqrt(128), 0)
        exact_o = p @ vd
        ds = p * (vd @ grad_o[0, row, head].double() - (exact_o * grad_o[0, row, head].double()).sum())
        pairs = (("o", o[0, row, head], exact_o, 1e-4), ("grad_q", grad_q[0, row, head], ds @ kd / math.sqrt(128), 1e-4))
        for name, got, exact, allowed in pairs:
            if not float((got.double() - exact).abs().max()) < allowed:
                failures.append(f"length 131072, {name} of head {head} row {row}: error {float((got.double() - exact).abs().max())}")
    for name, t in (("grad_k", grad_k), ("grad_v", grad_v)):
        if not bool(torch.isfinite(t).all()):
            failures.append(f"length 131072: {name} has unwritten or non-finite elements")
    return failures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kernel", default="sm80")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--sanitized", action="store_true")
    parser.add_argument("--head-dim-512", action="store_true", help="instead of the other cases, those of more than 256 columns")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    library = Library()
    checker = Checker(library, arguments.kernel)
    if arguments.sanitized:
        run_sanitized(checker)
    elif arguments.head_dim_512:
        run_head_dim_512(checker)
    else:
        run(checker, arguments.quick)
    if arguments.large:
        checker.failures += large(library, arguments.kernel)
    for failure in checker.failures[:60]:
        print("FAIL", failure)
    print(f"{checker.cases} cases, {len(checker.failures)} failures, seed {arguments.seed}, worst error / allowed {checker.worst_ratio:.2f}, "
          f"{library.build_info()}")
    sys.exit(bool(checker.failures))


if __name__ == "__main__":
    main()
