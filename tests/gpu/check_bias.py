#!/usr/bin/env python3
"""Checks the backward pass with a 16-bit additive bias, and the gradient of the bias, against the definition in float64, at sizes around the tiles' edges.

usage: FLASH_ATTENTION_LIBRARY=…/libflash_attention.so python3 check_bias.py [--kernel sm90] [--forward auto] [--only SUBSTRING] [--quick]

Inputs and bias lie in larger tensors of NaN; gradients are poisoned, and what surrounds them must stay as it was. O and the log-sum-exp come from the library's
forward pass. Errors are relative, in units of the format's rounding (2^-11, 2^-8), in the norm of a whole gradient and of its worst row.
"""
import argparse
import itertools
import math
import sys

import torch

from checking import EPS, FENCE, Tally, around, case_text, finite_elsewhere, reference, seen_pairs, written_outside
from fa_ctypes import Library

ALLOWED, ALLOWED_ROW = 1.5, 6.0


def gradients(q, k, v, out, grad_o, bias, o, exact):
    """Gradients of one batch entry in float64: (length, heads, dim) each, bias (heads, len_q, len_kv); that of the bias per head."""
    bias = bias.double().expand(q.shape[1], q.shape[0], -1)
    seen = seen_pairs(q.shape[0], k.shape[0], o)[None] & (bias != -math.inf)
    return reference(q, k, v, grad_o, seen, exact, bias, o.get("sinks"), out=out)


def judge(name, got, want, dtype):
    finite, elsewhere = want.isfinite(), finite_elsewhere(got, want)
    if elsewhere:
        return f"{name}: {elsewhere}"
    zero = torch.zeros((), dtype=torch.float64, device="cuda")
    error = torch.where(finite, got.double() - want, zero)
    size = torch.where(finite, want, zero)
    if size.norm() == 0:
        return f"{name}: not 0" if error.norm() > 0 else None
    relative = float(error.norm() / size.norm()) / EPS[dtype]
    row = float(error.norm(dim=-1).max() / size.norm(dim=-1).max()) / EPS[dtype]
    judge.worst[name] = max(judge.worst.get(name, 0.0), relative)
    return None if relative <= ALLOWED and row <= ALLOWED_ROW else f"{name}: relative error {relative:.2f} units, of a row {row:.2f}"


judge.worst = {}


class Checker(Tally):
    def __init__(self, kernel, only, forward):
        super().__init__(only)
        self.library, self.kernel, self.forward = Library(), kernel, forward

    def case(self, name, batch, len_q, len_kv, heads, d, dtype, shape, o=None, grad=True, hide=None, touch=None, repeat=False, kernel=None, dv=None):
        """shape: (batch, heads) of the bias. hide: part of the pairs that the bias hides. touch(q, k, v, grad_o): puts special values in; needs short lengths.
        """
        o, (heads_q, heads_kv) = o or {}, heads
        shown = {n: x for n, x in o.items() if n != "sinks"}
        text = case_text(name, batch, len_q, len_kv, heads_q, heads_kv, d, dv, dtype, "bias", shape, shown)
        arguments = batch, len_q, len_kv, heads_q, heads_kv, d, dv or d, dtype, shape, o, grad, hide, touch, repeat, kernel or self.kernel
        if self.wants(text):
            self.judge(text, lambda: self.compute(*arguments))

    def compute(self, batch, len_q, len_kv, heads_q, heads_kv, d, dv, dtype, shape, o, grad, hide, touch, repeat, kernel):
        q, k, v, grad_o = (around(s, dtype, math.nan)[0] for s in ((batch, len_q, heads_q, d), (batch, len_kv, heads_kv, d), (batch, len_kv, heads_kv, dv),
                                                                  (batch, len_q, heads_q, dv)))
        for t in (q, k, v, grad_o):
            t.copy_(torch.randn(t.shape, device="cuda"))
        if touch:
            touch(q, k, v, grad_o)
        bias = around((*shape, len_q, len_kv), dtype, math.nan)[0]
        values = torch.randn(bias.shape, device="cuda")
        if hide:
            values.masked_fill_(torch.rand_like(values) < hide, -math.inf)
            values[:, :, 3::7] = -math.inf
            values[:, :, :, 5::11] = -math.inf
        bias.copy_(values)
        options = {n: x for n, x in o.items() if n != "causal"} | {"mask": o.get("causal") or "none", "bias": bias}
        out = torch.empty(batch, len_q, heads_q, dv, device="cuda", dtype=dtype)
        lse = torch.empty(batch, heads_q, len_q, device="cuda")
        self.library.forward_call(q, k, v, out, lse, kernel=self.forward, **options)()
        found, rooms = {}, {}
        for n, like in (("grad_q", q), ("grad_k", k), ("grad_v", v)) + ((("grad_bias", bias),) if grad else ()):
            found[n], rooms[n] = around(like.shape, dtype, FENCE)
            found[n].fill_(math.nan)
        run = self.library.backward_call(q, k, v, out, grad_o, lse, *list(found.values())[:3], kernel=kernel, grad_bias=found.get("grad_bias"), **options)
        run()
        torch.cuda.synchronize()
        want = [gradients(q[b], k[b], v[b], out[b], grad_o[b], bias[b % shape[0]], o, touch is not None) for b in range(batch)]
        wrong = []
        for n in ("grad_q", "grad_k", "grad_v"):
            wrong.append(judge(n, found[n], torch.stack([w[n] for w in want]), dtype))
        if grad:
            exact = torch.stack([w["grad_bias"] for w in want])
            exact = exact if shape[0] == batch else exact.sum(0, keepdim=True)
            wrong.append(judge("grad_bias", found["grad_bias"], exact if shape[1] == heads_q else exact.sum(1, keepdim=True), dtype))
        for n, room in rooms.items():
            before = found[n].clone()
            wrong.append(f"a write outside {n}" if written_outside(found[n], room) else None)
            found[n].copy_(before)
        if repeat and grad:
            before = found["grad_bias"].clone()
            found["grad_bias"].fill_(math.nan)
            run()
            torch.cuda.synchronize()
            wrong.append(None if bool((before == found["grad_bias"]).all()) else "grad_bias differs from run to run")
        return [w for w in wrong if w]


def cases(checker, quick):
    f16, bf16 = torch.float16, torch.bfloat16
    lengths = [(500, 504), (129, 1000), (1024, 1024), (70, 64), (64, 136), (333, 776), (1, 8), (1000, 16)]
    masks = [{}, {"causal": "bottom_right"}, {"causal": "top_left"}, {"window": (130, 20)}, {"window": (40, 0)}, {"chunk": 200}]
    kinds = list(itertools.product((f16, bf16), (64, 128)))
    if quick:
        lengths, masks, kinds = lengths[:2] + lengths[5:6], masks[:2] + masks[3:4], [(bf16, 64), (f16, 128)]
    for (len_q, len_kv), (dtype, d), o in itertools.product(lengths, kinds, masks):
        for batch, heads, shape in ((2, (4, 4), (2, 4)), (2, (4, 2), (1, 4)), (3, (2, 2), (1, 2)), (1, (2, 1), (1, 2))):
            checker.case("grad", batch, len_q, len_kv, heads, d, dtype, shape, o)
        checker.case("hiding", 2, len_q, len_kv, (4, 2), d, dtype, (2, 4), o, hide=0.4)
        checker.case("hiding shared", 2, len_q, len_kv, (2, 2), d, dtype, (1, 2), o, hide=0.4)
        checker.case("no grad", 2, len_q, len_kv, (4, 2), d, dtype, (2, 1), o, grad=False)
        checker.case("no grad", 5, len_q, len_kv, (2, 2), d, dtype, (1, 1), o, grad=False)
    for d, dv in ((40, 40), (96, 80), (128, 64), (24, 128)):
        checker.case("dims", 2, 300, 400, (2, 2), d, f16, (1, 2), {"causal": "bottom_right"}, dv=dv)
    sinks = torch.randn(4, device="cuda")
    for d, shape in itertools.product((64, 128), ((2, 4), (1, 4))):
        checker.case("sinks", 2, 500, 504, (4, 2), d, f16, shape, {"sinks": sinks, "causal": "bottom_right"}, hide=0.3)
    # Many items per block, heads finished inside, items of batch entries one behind the other.
    for d, (batch, shape), o in itertools.product((64, 128), ((2, (2, 32)), (2, (1, 32)), (4, (1, 16))), masks[:2]):
        checker.case("many items", batch, 1100, 1160, (shape[1], 16), d, f16 if d == 64 else bf16, shape, o, repeat=True)
    checker.case("many heads", 4, 300, 304, (40, 8), 128, f16, (1, 40), {"causal": "bottom_right"}, repeat=True)
    checker.case("long", 2, 3000, 3000, (2, 2), 128, f16, (1, 2), {}, repeat=True)
    # Sums over heads or many batch entries.
    for (len_q, len_kv), (dtype, d), o in itertools.product(lengths, kinds, masks):
        for batch, heads, shape in ((5, (2, 2), (1, 2)), (2, (4, 2), (2, 1)), (2, (4, 4), (1, 1))):
            checker.case("sum", batch, len_q, len_kv, heads, d, dtype, shape, o, hide=0.3 if batch == 2 else None)
    checker.case("many sums", 6, 1500, 1400, (6, 2), 128, f16, (1, 6), {"causal": "bottom_right"}, repeat=True)
    checker.case("many sums", 2, 1500, 1400, (6, 2), 64, bf16, (2, 1), repeat=True)

    # NaN and infinity stay with the pairs that see them.
    def spot(which, row, value):
        return lambda q, k, v, grad_o: {"q": q, "k": k, "v": v, "grad_o": grad_o}[which][:, row, 0].fill_(value)

    for d, which, row, value, shape in itertools.product((64, 128), ("q", "k", "v", "grad_o"), (3, 130) if quick else (3, 130, 150), (math.nan, math.inf),
                                                         ((1, 2),) if quick else ((2, 2), (1, 2), (1, 1))):
        if value == math.inf and which != "v":
            continue
        for o in ({}, {"window": (60, 10)}):
            checker.case(f"special {which} row {row}", 2, 170, 168, (2, 2), d, f16, shape, o, hide=0.5, touch=spot(which, row, value))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kernel", default="sm90")
    parser.add_argument("--forward", default="auto", help="kernel of the forward pass")
    parser.add_argument("--only", default="")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(11)
    checker = Checker(arguments.kernel, arguments.only, arguments.forward)
    cases(checker, arguments.quick)
    worst = ", ".join(f"{n} {x:.2f}" for n, x in judge.worst.items())
    right = f"{checker.cases - checker.failures} of {checker.cases} right"
    print(f"bias, backward, {arguments.kernel}: {right}; worst relative error in units of the format: {worst}")
    sys.exit(checker.verdict())


if __name__ == "__main__":
    main()
