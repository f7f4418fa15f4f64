#!/usr/bin/env python3
"""Forward passes whose logits vary much, grow, shrink or are not finite: long rows of the Hopper kernels choose by them how to keep their references. Each
problem without and with a sink, a wide window or sequences. Compared with the portable kernels, which follow the maximum in every tile.

usage: FLASH_ATTENTION_LIBRARY=…/libflash_attention.so python3 check_wide_logits.py [--seed N]
"""
import argparse
import itertools
import sys

import torch

from fa_ctypes import Library

# batch, len_q, len_kv, heads_q, heads_kv; the last two share their last round at some head_dims.
PROBLEMS = [(2, 300, 1537, 3, 3), (1, 1999, 2048, 6, 2), (1, 4096, 4096, 4, 4), (2, 2100, 1700, 2, 1), (2, 8192, 8192, 16, 16), (4, 4096, 4096, 32, 32)]
DIMS = (40, 64, 96, 128, 192, 256)
GAINS = (1.0, 1.5, 3.0, 30.0)
KINDS = ("normal", "q_nan", "q_infinite", "k_nan", "k_infinite", "negative", "growing", "shrinking")


def inputs(problem, dim, dtype, gain, kind):
    batch, len_q, len_kv, heads_q, heads_kv = problem
    q = torch.randn(batch, len_q, heads_q, dim, device="cuda", dtype=dtype) * gain
    k, v = (torch.randn(batch, len_kv, heads_kv, dim, device="cuda", dtype=dtype) for _ in range(2))
    if kind == "q_nan":
        q[0, len_q // 2, 0, 3] = float("nan")
    elif kind == "q_infinite":
        q[-1, len_q // 3, -1, 3] = float("inf")
    elif kind == "k_nan":
        k[0, len_kv * 3 // 4, 0, 5] = float("nan")
    elif kind == "k_infinite":
        k[0, len_kv * 7 // 8, -1, 5] = float("-inf")
    elif kind == "negative":
        q, k = q.abs(), -k.abs()
    elif kind in ("growing", "shrinking"):
        steps = torch.arange(len_kv, device="cuda") // 64
        q[..., 0] = 4.0
        k[..., 0] = ((steps if kind == "growing" else steps.flip(0)) * gain).to(dtype)[None, :, None]
    return q, k, v


def variant(number, problem, mask, dim, gain, kind):
    """A name and options for a problem with more than a mask; rows with 1536 keys and more stay among them."""
    batch, len_q, len_kv, heads_q, _ = problem
    tensor = lambda x: torch.tensor(x, dtype=torch.int32, device="cuda")
    which = number % 4
    if which == 0:
        typical = -0.6 * dim**0.5 * gain if kind == "negative" else 0.0  # a sink far above all logits leaves nothing to compare
        return "sinks", {"sinks": torch.randn(heads_q, device="cuda") * 3 + typical}
    if which == 1:
        return "window", {"window": (1700, 60 if mask == "none" else 0)}
    if which == 2 or batch > 1:
        return "sequences", {"seqused_kv": tensor([len_kv - 5 * b - number % 3 for b in range(batch)])}
    starts_q, starts_kv = [0, len_q // 5, len_q], [0, len_kv // 9, len_kv]
    return "packed", {"cu_seqlens_q": tensor(starts_q), "cu_seqlens_kv": tensor(starts_kv), "max_len_q": len_q - starts_q[1], "max_len_kv": len_kv - starts_kv[1]}


def outcome(library, q, k, v, mask, kernel, options):
    o = torch.full_like(q, 77.0)
    lse = torch.full((q.shape[0], q.shape[2], q.shape[1]), 77.0, device="cuda")
    library.forward_call(q, k, v, o, lse, mask, kernel=kernel, **options)()
    torch.cuda.synchronize()
    return o, lse


def difference(got, want, dtype):
    """A message for what differs, or None."""
    (o, lse), (want_o, want_lse) = got, want
    if not torch.equal(o.isfinite(), want_o.isfinite()) or not torch.equal(lse.isfinite(), want_lse.isfinite()):
        return "other elements are finite"
    finite = lambda t: torch.nan_to_num(t.float(), 0.0, 0.0, 0.0)
    o, want_o, lse, want_lse = map(finite, (o, want_o, lse, want_lse))
    apart = float((o - want_o).norm() / want_o.norm())
    if not apart < (1e-3 if dtype == torch.float16 else 8e-3):
        return f"o differs by {apart:.1e}"
    furthest = float(((lse - want_lse).abs() / (1 + want_lse.abs())).max())
    return None if furthest < 1e-4 else f"the log-sum-exp differs by {furthest:.1e}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    library, count, failures = Library(), 0, 0
    for problem, dim, gain, kind, mask in itertools.product(PROBLEMS, DIMS, GAINS, KINDS, ("none", "top_left", "bottom_right")):
        large = problem[1] * problem[4] > 100_000
        if large and ((dim not in (64, 128, 256)) or (gain not in (1.5, 3.0)) or kind not in ("normal", "q_nan", "growing") or mask == "top_left"):
            continue
        dtype = torch.bfloat16 if count % 3 == 0 else torch.float16
        q, k, v = inputs(problem, dim, dtype, gain, kind)
        for name, extras in (("", {}), variant(count // 2, problem, mask, dim, gain, kind)):
            message = difference(outcome(library, q, k, v, mask, "auto", extras), outcome(library, q, k, v, mask, "sm80", extras), dtype)
            count += 1
            if message:
                failures += 1
                if failures <= 30:
                    print(f"WRONG {str(dtype)[6:]} head_dim {dim} {problem} {mask} {name}, deviation {gain:g}, {kind}: {message}", flush=True)
    print(f"{count} problems with wide logits, {failures} failures, seed {options.seed}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
