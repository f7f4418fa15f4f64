#!/usr/bin/env python3
"""Checks the backward pass with boolean and block masks against the definition in float64: tiles that are hidden, whole and neither, in all positions.

usage: FLASH_ATTENTION_LIBRARY=…/libflash_attention.so python3 check_mask_gradients.py [--kernel sm90] [--only SUBSTRING] [--quick | --tiny]

O and the log-sum-exp are those of the definition, so that a forward kernel has no part in it. Inputs lie in larger tensors of NaN, gradients are poisoned and
must leave what surrounds them alone. Rows that see nothing and keys that nobody sees have gradients of exactly 0. Other errors are relative, in units of the
format's rounding (2^-11, 2^-8): in the norm of a whole gradient, and of the worst element against the largest.
"""
import argparse
import itertools
import math
import sys

import torch

from checking import (EPS, FENCE, Tally, around, case_text, document_mask, finite_elsewhere, one_odd_pair, reference, shapes_of, shown_pairs,
                      written_outside)
from fa_ctypes import Library

ALLOWED, ALLOWED_ELEMENT = 2.0, 6.0
# Gradients count as at least so large: with one visible key per row they are 0 but for rounding.
SMALLEST = 1e-2


def judge(name, got, want, dtype, worst, silent=None):
    """silent: rows that must be exactly 0."""
    finite = want.isfinite()
    if silent is not None and bool((got[silent] != 0).any()):
        return f"{name}: not 0 in a row without a visible pair, first {(got.ne(0).any(-1) & silent).nonzero()[0].tolist()}"
    elsewhere = finite_elsewhere(got, want)
    if elsewhere:
        return f"{name}: {elsewhere}"
    error, size = (got.double() - want)[finite], want[finite]
    if size.numel() == 0:
        return None
    norm, most = max(float(size.norm()), SMALLEST * size.numel()**0.5), max(float(size.abs().max()), SMALLEST)
    relative, largest = float(error.norm()) / norm / EPS[dtype], float(error.abs().max()) / most / EPS[dtype]
    worst[name] = max(worst.get(name, 0.0), relative)
    return None if relative <= ALLOWED and largest <= ALLOWED_ELEMENT else f"{name}: relative error {relative:.2f} units, largest {largest:.2f}"


class Checker(Tally):
    def __init__(self, kernel, only):
        super().__init__(only)
        self.library, self.kernel, self.worst = Library(), kernel, {}

    def case(self, name, b, len_q, len_kv, heads_q, heads_kv, d, dtype, o, dv=None, touch=None, repeats=1):
        """touch(q, k, v, grad_o): puts special values in; needs short lengths."""
        text = case_text(name, b, len_q, len_kv, heads_q, heads_kv, d, dv, dtype, shapes_of(o))
        if self.wants(text):
            torch.manual_seed(self.cases)
            arguments = b, len_q, len_kv, heads_q, heads_kv, d, dv or d, dtype, o, touch, repeats
            self.judge(text, lambda: self.compute(*arguments), ("CUDA", "device"), 300)

    def compute(self, b, len_q, len_kv, heads_q, heads_kv, d, dv, dtype, o, touch, repeats):
        shapes = {"q": (b, len_q, heads_q, d), "k": (b, len_kv, heads_kv, d), "v": (b, len_kv, heads_kv, dv), "grad_o": (b, len_q, heads_q, dv)}
        t = {n: around(s, dtype, math.nan)[0] for n, s in shapes.items()}
        for tensor in t.values():
            tensor.copy_(torch.randn(tensor.shape, device="cuda"))
        if touch:
            touch(**t)
        grad_lse = torch.randn(b, heads_q, len_q, device="cuda") if self.cases % 2 else None
        shown = torch.stack([shown_pairs(i, heads_q, len_q, len_kv, o) for i in range(b)])
        want = [reference(*(t[n][i] for n in ("q", "k", "v", "grad_o")), shown[i], touch is not None, sinks=o.get("sinks"),
                          grad_lse=None if grad_lse is None else grad_lse[i]) for i in range(b)]
        out = around(shapes["grad_o"], dtype, math.nan)[0]
        out.copy_(torch.stack([w["o"] for w in want]))
        lse = torch.stack([w["lse"] for w in want]).float().contiguous()
        grads, rooms = zip(*(around(shapes[n], dtype, FENCE) for n in ("q", "k", "v")))
        sinks = torch.full((heads_q,), math.nan, device="cuda") if "sinks" in o else None
        options = dict(o)
        mask = options.pop("causal", "none")
        call = self.library.backward_call(t["q"], t["k"], t["v"], out, t["grad_o"], lse, *grads, mask=mask, kernel=self.kernel, grad_lse=grad_lse,
                                          grad_sinks=sinks, **options)
        for _ in range(repeats):
            for g in grads:
                g.fill_(math.nan)
            call()
        torch.cuda.synchronize()
        wrong = []
        for n, got, room in zip(("grad_q", "grad_k", "grad_v"), grads, rooms):
            seen = shown.any(3) if n == "grad_q" else shown.view(b, heads_kv, -1, len_kv).any(2)
            wrong.append(judge(n, got, torch.stack([w[n] for w in want]), dtype, self.worst, ~seen.transpose(1, 2)))
            if written_outside(got, room):
                wrong.append(f"{n}: a write outside")
        if sinks is not None:
            wrong.append(judge("grad_sinks", sinks, sum(w["grad_sinks"] for w in want), dtype, self.worst))
        return [w for w in wrong if w]


def with_masks(checker, quick=False):
    """Every way of sharing a mask, every kind of tile, beside every range."""
    everything = lambda *shape: torch.ones(*shape, device="cuda", dtype=torch.bool)
    sizes = ((512, 512), (500, 777), (900, 384), (65, 130), (1, 300), (300, 1), (129, 1290))
    for d, (len_q, len_kv), dtype in itertools.product((128, 64), sizes[1:4] if quick else sizes, (torch.float16, torch.bfloat16)):
        if quick and (dtype == torch.float16) != (d == 128):
            continue
        torch.manual_seed(len_q)
        case = lambda name, o, b=2, heads=4, kv=2, dv=None: checker.case(name, b, len_q, len_kv, heads, kv, d, dtype, o, dv)
        for mean in (40, 150, 1000):
            case("documents", {"visible": document_mask(2, len_q, len_kv, mean)})
        documents = document_mask(1, len_q, len_kv, 100)
        case("shared documents", {"visible": documents})
        case("documents of heads", {"visible": document_mask(8, len_q, len_kv, 100).view(2, 4, len_q, len_kv)})
        case("documents of heads alone", {"visible": document_mask(4, len_q, len_kv, 100).view(1, 4, len_q, len_kv)}, kv=4, dv=d // 2)
        case("holes", {"visible": one_odd_pair(len_q, len_kv, False)})
        case("needles", {"visible": one_odd_pair(len_q, len_kv, True)})
        case("noise", {"visible": torch.rand(2, 4, len_q, len_kv, device="cuda") > 0.5})
        case("bytes", {"visible": torch.randint(0, 3, (2, 1, len_q, len_kv), device="cuda").mul(100).to(torch.uint8)})
        case("everything", {"visible": everything(1, 1, len_q, len_kv)})
        case("nothing", {"visible": ~everything(2, 1, len_q, len_kv)})
        case("nothing but sinks", {"visible": ~everything(2, 1, len_q, len_kv), "sinks": torch.randn(4, device="cuda")})
        case("nothing in an entry", {"visible": torch.tensor([True, False], device="cuda").view(2, 1, 1, 1).expand(2, 1, len_q, len_kv).contiguous()})
        case("nothing in a head", {"visible": (torch.arange(4, device="cuda") != 1).view(1, 4, 1, 1).expand(1, 4, len_q, len_kv).contiguous()})
        case("rows", {"visible": torch.rand(2, 1, len_q, 1, device="cuda").gt(0.5).expand(2, 1, len_q, len_kv).contiguous()})
        case("keys", {"visible": torch.rand(2, 1, 1, len_kv, device="cuda") > 0.5})
        case("padding", {"visible": (torch.arange(len_kv, device="cuda") < torch.tensor([len_kv // 3, len_kv - 1], device="cuda")[:, None])[:, None, None]})
        case("a part", {"visible": everything(1, 1, len_q + 3, len_kv + 5)[:, :, 1:1 + len_q, 3:3 + len_kv] & documents})
        for extra in ({"causal": "bottom_right"}, {"causal": "top_left"}, {"window": (200, 30)}, {"chunk": 100}, {"sinks": torch.randn(4, device="cuda")}):
            case("documents and more", {"visible": documents} | extra)
            case("everything and more", {"visible": torch.ones_like(documents)} | extra)
        for size in ((128, 128), (64, 128), (16, 16), (48, 208), (192, 64)):
            blocks = torch.rand(2, 4, -(-len_q // size[0]), -(-len_kv // size[1]), device="cuda") > 0.5
            case("blocks", {"block_mask": blocks, "block_size": size})
            case("shared blocks", {"block_mask": blocks[:1, :1], "block_size": size, "causal": "bottom_right"})
            case("blocks and documents", {"block_mask": blocks[:1], "block_size": size, "visible": document_mask(2, len_q, len_kv, 200)})


def with_many_tiles(checker):
    """Lists of more than 32 entries of either kind; grad_q finished inside; order of work."""
    for d in (128, 64):
        long = torch.arange(9000, device="cuda")
        checker.case("long lists", 1, 9000, 260, 2, 1, d, torch.float16, {"visible": one_odd_pair(9000, 260, False)})
        half = (long[:, None] < 4700) & (long[None, :260] != 131)
        checker.case("long lists of both kinds", 1, 9000, 260, 2, 2, d, torch.float16, {"visible": half[None, None].contiguous(), "causal": "top_left"})
        for dtype, heads in itertools.product((torch.float16, torch.bfloat16), ((4, 4), (40, 8), (32, 32))):
            checker.case("many tiles", 2, 1500, 1500, *heads, d, dtype, {"visible": document_mask(2, 1500, 1500, 300)}, repeats=4)
            blocks = torch.rand(1, heads[0], 12, 11, device="cuda") > 0.7
            checker.case("many tiles", 2, 1500, 1400, *heads, d, dtype, {"block_mask": blocks, "block_size": (128, 128), "causal": "bottom_right"}, repeats=4)
    for d in (40, 96):
        checker.case("other head dims", 1, 700, 650, 6, 3, d, torch.float16, {"visible": document_mask(1, 700, 650, 100)}, dv=d + 8)


def with_special_values(checker):
    """NaN and infinity reach what sees them and nothing else."""
    def spot(tensor, row, value):
        def touch(**t):
            t[tensor][:, row, 0, 3] = value
        return touch

    masks = ({"visible": document_mask(1, 200, 300, 60)}, {"visible": torch.rand(1, 2, 200, 300, device="cuda") > 0.4},
             {"visible": one_odd_pair(200, 300, False)},
             {"block_mask": torch.rand(1, 1, 4, 3, device="cuda") > 0.4, "block_size": (64, 128), "causal": "bottom_right"})
    for name, value, o, row in itertools.product(("q", "k", "v", "grad_o"), (math.nan, math.inf), masks, (3, 150)):
        checker.case(f"{value} in {name} {row}", 1, 200, 300, 2, 1 if row == 3 else 2, 128 if row == 3 else 64, torch.float16, o, touch=spot(name, row, value))
    padding = torch.arange(300, device="cuda") < 170

    def poison(k, v, **_):
        k[:, ~padding] = math.nan
        v[:, ~padding] = math.inf

    for d in (64, 128):
        checker.case("poisoned padding", 2, 200, 300, 4, 2, d, torch.float16, {"visible": padding[None, None, None]}, touch=poison)


def tiny(checker):
    """A few small cases with everything in them, for compute-sanitizer."""
    for d, causal in ((128, None), (64, "bottom_right")):
        checker.case("tiny documents", 1, 300, 420, 4, 2, d, torch.float16, {"visible": document_mask(4, 300, 420, 90).view(1, 4, 300, 420), "causal": causal})
        checker.case("tiny blocks", 2, 200, 300, 2, 2, d, torch.float16, {"block_mask": torch.rand(2, 1, 5, 4, device="cuda") > 0.4, "block_size": (48, 80),
                                                                         "visible": torch.rand(1, 1, 1, 300, device="cuda") > 0.2})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", default="auto")
    parser.add_argument("--only", default="")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and element types")
    parser.add_argument("--tiny", action="store_true", help="four cases, for sanitizers")
    a = parser.parse_args()
    checker = Checker(a.kernel, a.only)
    torch.manual_seed(7)
    for part in (tiny,) if a.tiny else (with_masks, with_many_tiles, with_special_values):
        before = checker.cases, checker.failures
        part(checker, True) if a.quick and part is with_masks else part(checker)
        worst = ", ".join(f"{n} {x:.2f}" for n, x in checker.worst.items())
        print(f"{part.__name__}: {checker.cases - before[0]} cases, {checker.failures - before[1]} failures; worst so far in units: {worst}", flush=True)
    sys.exit(checker.verdict())


if __name__ == "__main__":
    main()
