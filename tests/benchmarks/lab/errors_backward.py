#!/usr/bin/env python3
"""Relative error of the gradients against float64: a configuration of the Hopper backward kernel beside FlashAttention-2 and cuDNN, on the same inputs.

usage: errors_backward.py [--out DIR] CONFIG …  (built by lab_backward.py with the same --out)
"""
import argparse
import sys

import torch

import cases_backward as cases
import common
import lab_backward as lab


def row(variant, causal, dtype, length=2048, heads=4):
    d = variant.head_dim
    t = {n: torch.randn(1, length, heads, d, device="cuda").to(dtype) for n in ("q", "k", "v", "grad_o")}
    sees = common.visible(length, length, common.TOP_LEFT if causal else common.NONE)
    heads_first = [t[n].transpose(1, 2) for n in ("q", "k", "v", "grad_o")]
    want = cases.gradients(*heads_first, None, sees, d ** -0.5, torch.float64)[2:]
    calls, t["o"], lse = lab.peer_calls(t["q"], t["k"], t["v"], t["grad_o"], causal)
    t.update({n: torch.empty_like(t["q"]) for n in ("grad_q", "grad_k", "grad_v")})
    variant.run(t, lse.view(1, heads, length).contiguous(), None, 1 if causal else 0, d ** -0.5)
    results = {"ours": [t[n].transpose(1, 2) for n in ("grad_q", "grad_k", "grad_v")]}
    results.update({name: call()[:3] for name, call in calls.items()})
    errors = {name: [float((g.double() - w).norm() / w.norm()) for g, w in zip(got, want)] for name, got in results.items()}
    texts = [f"{n} " + "/".join(f"{e:.2e}" for e in v) for n, v in errors.items()]
    print(f"d={d} {'causal' if causal else 'full':6} {str(dtype)[6:]:8} " + "  ".join(texts), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+")
    parser.add_argument("--out", default="lab-build")
    options = parser.parse_args()
    torch.manual_seed(3)
    print("relative errors of grad_q/grad_k/grad_v")
    for spec in options.configs:
        variant = lab.Variant(spec, options.out)
        variant.load()
        for dtype in (torch.float16, torch.bfloat16):
            for causal in (False, True):
                row(variant, causal, dtype)


if __name__ == "__main__":
    sys.exit(main())
