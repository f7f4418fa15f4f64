#!/usr/bin/env python3
"""Error of the Hopper forward kernel, FlashAttention-2 and cuDNN (both through PyTorch) against float64 on the same inputs. Needs an sm_90 GPU and PyTorch.

usage: accuracy.py [--out DIR] [--prebuilt] CONFIG …      (as for lab.py)

Inputs are random normal; "large logits" multiplies q by 8, so that most rows have one key that outweighs the rest. Per case: the largest error and the root
mean square of the error of O, in units of 1e-5.
"""
import argparse
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import cases
import common
import lab

SHAPES = [(4, 512, 8), (2, 1000, 8), (1, 4096, 4)]  # batch, length, heads


def peer(backend, q, k, v, causal):
    with sdpa_kernel(backend):
        return torch.nn.functional.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), is_causal=causal).transpose(1, 2)


def ours(variant, q, k, v, causal):
    o = torch.empty_like(q)
    lse = torch.empty(q.shape[0], q.shape[2], q.shape[1], device="cuda")
    variant.run(q, k, v, o, lse, 1 if causal else 0, q.shape[3] ** -0.5)
    torch.cuda.synchronize()
    return o


def errors(out, want):
    difference = (out.double() - want).abs()
    return float(difference.max()), float(difference.square().mean().sqrt())


def measure(variant, dtype, causal, shape, gain):
    """{implementation: (largest, root mean square)} of one case."""
    batch, length, heads = shape
    q, k, v = (torch.randn(batch, length, heads, variant.head_dim, device="cuda", dtype=torch.float32).to(dtype) for _ in range(3))
    q *= gain
    want, _ = cases.reference(q, k, v, common.TOP_LEFT if causal else common.NONE, variant.head_dim ** -0.5)
    return {"ours": errors(ours(variant, q, k, v, causal), want),
            "FA2": errors(peer(SDPBackend.FLASH_ATTENTION, q, k, v, causal), want),
            "cuDNN": errors(peer(SDPBackend.CUDNN_ATTENTION, q, k, v, causal), want)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+")
    parser.add_argument("--out", default="lab-build")
    parser.add_argument("--prebuilt", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(3)
    ratios = {}
    print("largest error and root mean square of ours/FA2/cuDNN, 1e-5")
    for spec in options.configs:
        variant = lab.Variant(spec, options.out)
        error = None if options.prebuilt else variant.build()
        if error:
            sys.exit(error)
        variant.load()
        for dtype in (torch.float16, torch.bfloat16):
            for causal, shape, gain in ((c, s, g) for c in (False, True) for s in SHAPES for g in (1.0, 8.0)):
                name = "large logits" if gain > 1 else "normal"
                row = measure(variant, dtype, causal, shape, gain)
                text = f"d={variant.head_dim} {str(dtype)[6:]} {'causal' if causal else 'full'} {'x'.join(map(str, shape))} {name}"
                print(f"{text:44} " + "  ".join("/".join(f"{row[n][i] * 1e5:.2f}" for n in row) for i in (0, 1)), flush=True)
                for i, what in enumerate(("largest", "rms")):
                    ratios.setdefault((what, str(dtype)[6:], name), []).append(row["ours"][i] / min(row["FA2"][i], row["cuDNN"][i]))
    for key, values in ratios.items():
        print(f"{' '.join(key)}: ours over the better peer: mean {sum(values) / len(values):.3f}, worst {max(values):.3f} ({len(values)} cases)")


if __name__ == "__main__":
    main()
