#!/usr/bin/env python3
"""Bitwise equality from run to run, also while the same problem runs on other streams, beside matrix products that take multiprocessors away: the forward pass
and the deterministic backward pass at every head_dim.

usage: FLASH_ATTENTION_LIBRARY=…/libflash_attention.so python3 check_repeats.py [--kernel auto|sm80|sm90] [--forward 10] [--backward 20] [--streams 3]
"""
import argparse
import itertools
import sys

import torch

from checking import Tally
from fa_ctypes import Library

# batch, len_q, len_kv, heads_q, heads_kv: short ones in many heads, lengths off every tile's edge, grouped heads, long ones of few heads, a last round that
# blocks of the Hopper forward kernel share
SHAPES = ((8, 512, 512, 16, 16), (2, 1000, 1300, 12, 3), (1, 4096, 4096, 8, 8), (1, 9000, 4096, 4, 2))
# Many keys for few queries and the reverse, few heads: blocks that add in a fixed order wait for each other longest here.
UNEVEN_SHAPES = ((2, 300, 5000, 4, 4), (1, 130, 9000, 2, 1), (1, 1, 20000, 2, 1), (2, 3000, 700, 4, 2), (1, 8000, 8100, 3, 3))
DIMS = (64, 96, 128, 192, 256)
VARIANTS = ({"window": (200, 0)}, {"softcap": 20.0})


def differing(call, outputs, repeats, beside):
    """Names of the outputs that are not the first run's, bit for bit, in one of `repeats` runs. call(i) queues a run into outputs[i], on stream i; each round
    takes all streams at once, and beside() queues other work on another one."""
    def bits():
        for tensors in outputs:
            for t in tensors.values():
                t.fill_(float("nan"))
        torch.cuda.synchronize()
        for i in range(len(outputs)):
            beside()
            call(i)
        torch.cuda.synchronize()
        return [{n: t.view(torch.int32 if t.dtype == torch.float32 else torch.int16) for n, t in tensors.items()} for tensors in outputs]

    first, wrong = {n: t.clone() for n, t in bits()[0].items()}, set()
    if any(bool(t.isnan().any()) for t in outputs[0].values()):
        return ["NaN"]
    for _ in range(-(-repeats // len(outputs))):
        wrong |= {n for found in bits() for n, t in found.items() if not torch.equal(t, first[n])}
    return sorted(wrong)


class Checker(Tally):
    def __init__(self, a):
        super().__init__(a.only)
        self.library, self.a = Library(), a
        self.streams = [torch.cuda.Stream() for _ in range(a.streams)]
        self.matrix, self.other_stream = torch.randn(2048, 2048, device="cuda", dtype=torch.float16), torch.cuda.Stream()

    def beside(self):
        """Some microseconds of work for all multiprocessors."""
        with torch.cuda.stream(self.other_stream):
            self.matrix @ self.matrix

    def case(self, shape, dim, dtype, mask, options):
        text = f"d{dim} {'x'.join(map(str, shape))} {mask} {str(dtype)[6:]} {options or ''}"
        if self.wants(text):
            self.judge(text, lambda: self.compute(shape, dim, dtype, mask, options))

    def compute(self, shape, dim, dtype, mask, options):
        batch, len_q, len_kv, heads_q, heads_kv = shape
        torch.manual_seed(dim + len_q)
        make = lambda length, heads: torch.randn(batch, length, heads, dim, device="cuda", dtype=dtype)
        q, k, v, grad_o = make(len_q, heads_q), make(len_kv, heads_kv), make(len_kv, heads_kv), make(len_q, heads_q)
        options = {"mask": mask, "kernel": self.a.kernel} | options
        rows = lambda: torch.empty(batch, heads_q, len_q, device="cuda")
        forward = [{"o": torch.empty_like(q), "lse": rows()} for _ in self.streams]
        backward = [{n: torch.empty_like(t) for n, t in (("grad_q", q), ("grad_k", k), ("grad_v", v))} for _ in self.streams]

        def queue_on(i, make_call):
            with torch.cuda.stream(self.streams[i]):
                return make_call()

        # Each stream's calls have workspaces of their own.
        forwards = [queue_on(i, lambda: self.library.forward_call(q, k, v, f["o"], f["lse"], **options)) for i, f in enumerate(forward)]
        wrong = differing(lambda i: forwards[i](), forward, self.a.forward, self.beside)
        o, lse = forward[0]["o"], forward[0]["lse"]
        backwards = [queue_on(i, lambda: self.library.backward_call(q, k, v, o, grad_o, lse, *g.values(), deterministic=True, **options))
                     for i, g in enumerate(backward)]
        return wrong + differing(lambda i: backwards[i](), backward, self.a.backward, self.beside)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", default="auto")
    parser.add_argument("--only", default="", help="part of the text of the cases that are wanted")
    parser.add_argument("--forward", type=int, default=10, help="runs of the forward pass")
    parser.add_argument("--backward", type=int, default=20)
    parser.add_argument("--streams", type=int, default=3, help="that run at once")
    checker = Checker(parser.parse_args())
    a = checker.a
    for shape, dim, mask in itertools.product(SHAPES, DIMS, ("none", "bottom_right")):
        for dtype in (torch.float16, torch.bfloat16):
            checker.case(shape, dim, dtype, mask, {})
    for index, (shape, dim, mask) in enumerate(itertools.product(UNEVEN_SHAPES, DIMS, ("none", "bottom_right"))):
        checker.case(shape, dim, torch.float16 if index % 3 else torch.bfloat16, mask, {})
    for shape, dim, options in itertools.product(SHAPES[:2], (64, 128), VARIANTS):
        checker.case(shape, dim, torch.float16, "bottom_right", options)
    print(f"{checker.cases} problems, {checker.failures} not the same bit for bit in {a.forward} forward and {a.backward} deterministic backward runs "
          f"on {a.streams} streams at once, kernel {a.kernel}")
    return checker.verdict()


if __name__ == "__main__":
    sys.exit(main())
