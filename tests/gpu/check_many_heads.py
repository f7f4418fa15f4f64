#!/usr/bin/env python3
"""Backward passes of many heads: blocks of the Hopper kernels wait for each other and finish each other's heads there, which small problems never come to. The
default, the deterministic mode and the portable kernels, which mostly share no main kernel, must agree; grad_k and grad_v must be bitwise equal from run to
run, also while the same problem runs on a second stream.

usage: FLASH_ATTENTION_LIBRARY=…/libflash_attention.so python3 check_many_heads.py [--seed N]
"""
import argparse
import sys

import torch

from fa_ctypes import Library

# mask, batch, len_q, len_kv, heads_q, heads_kv
PROBLEMS = [
    ("none", 3, 4096, 1024, 18, 18),
    ("none", 2, 1000, 3000, 25, 25),
    ("none", 4, 5000, 3000, 16, 4),
    ("none", 40, 512, 512, 16, 16),
    ("bottom_right", 2, 8192, 8192, 8, 8),
    ("bottom_right", 2, 4000, 6000, 20, 5),
    ("bottom_right", 2, 6000, 4000, 8, 8),
    ("top_left", 12, 2100, 2300, 16, 16),
    ("top_left", 40, 520, 510, 32, 16),
    ("bottom_right", 1, 16384, 16384, 6, 6),
]
DIMS = (64, 128, 256)


def gradients(calls, tensors):
    """Runs calls, at once if they are on several streams, from outputs full of NaN; returns copies."""
    for grads in tensors:
        for t in grads:
            t.fill_(float("nan"))
    torch.cuda.synchronize()
    for call in calls:
        call()
    torch.cuda.synchronize()
    return [[t.clone() for t in grads] for grads in tensors]


def difference(a, b):
    return max(float((x.float() - y.float()).norm() / y.float().norm()) for x, y in zip(a, b))


def check(library, dim, problem, dtype):
    """A message for what is wrong, or None; and the largest difference."""
    mask, batch, len_q, len_kv, heads_q, heads_kv = problem
    if dim == 256:
        heads_q, heads_kv = heads_q // heads_kv * max(heads_kv // 2, 1), max(heads_kv // 2, 1)
    q, grad_o = (torch.randn(batch, len_q, heads_q, dim, device="cuda", dtype=dtype) for _ in range(2))
    k, v = (torch.randn(batch, len_kv, heads_kv, dim, device="cuda", dtype=dtype) for _ in range(2))
    o, lse = torch.empty_like(q), torch.empty(batch, heads_q, len_q, device="cuda")
    library.forward_call(q, k, v, o, lse, mask)()
    outputs = [[torch.empty_like(t) for t in (q, k, v)] for _ in range(2)]

    def backward(i, stream=None, **options):
        with torch.cuda.stream(stream):
            return library.backward_call(q, k, v, o, grad_o, lse, *outputs[i], mask, **options)

    first = gradients([backward(0)], outputs)[0]
    worst = 0.0
    for name, options in (("deterministic", {"deterministic": True}), ("portable", {"kernel": "sm80"})):
        other = gradients([backward(0, **options)], outputs)[0]
        apart = difference(first, other)
        worst = max(worst, apart)
        if not apart < (0.002 if dtype == torch.float16 else 0.016):
            return f"default and {name} differ by {apart:.1e}", worst
    twice = [backward(i, torch.cuda.Stream()) for i in range(2)]
    for _ in range(3):
        for again in gradients(twice, outputs):
            if not all(torch.equal(x, y) for x, y in zip(again[1:], first[1:])):
                return "grad_k or grad_v differ from run to run", worst
            if not difference(again, first) < 1e-3:
                return "grad_q differs from run to run", worst
    return None, worst


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    library, failures, count, largest = Library(), 0, 0, 0.0
    for i, problem in enumerate(PROBLEMS):
        for dim in DIMS:
            message, worst = check(library, dim, problem, torch.bfloat16 if (i + dim // 64) % 3 == 0 else torch.float16)
            count += 1
            largest = max(largest, worst)
            if message:
                failures += 1
                print(f"WRONG head_dim {dim} {problem}: {message}", flush=True)
    print(f"{count} problems of many heads, {failures} failures, seed {options.seed}, largest difference between kernels {largest:.1e}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
