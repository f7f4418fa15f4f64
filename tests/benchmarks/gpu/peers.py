#!/usr/bin/env python3
"""Our kernels beside FlashAttention-2 and cuDNN (both through PyTorch) and naive eager attention, on the same tensors in one run; correctness first.

usage: FLASH_ATTENTION_LIBRARY=…/libflash_attention.so python3 peers.py [--json FILE] [--dims 64,128,256] [--lengths 512,…,16384] [--passes forward,backward]
           [--dtypes float16,bfloat16] [--kernels sm80] [--peers fa2,cudnn,eager] [--budget SECONDS_PER_MEASUREMENT]

Grid: batch * length = 16384, heads * head_dim = 2048, random normal inputs (B, S, H, D). Times are CUDA events around one call, the median of many calls in turn.
The tensors of a case are larger than the second-level cache, so every call starts from device memory. TFLOP/s: forward 4 B H S^2 d (half if causal), backward
2.5 times that.
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys

import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "gpu"))
from fa_ctypes import Library  # noqa: E402

TOKENS, WIDTH = 16384, 2048
aten = torch.ops.aten


def state():
    fields = "name,driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu"
    line = subprocess.run(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"], capture_output=True, text=True).stdout.strip().split("\n")[0]
    return dict(zip(fields.split(","), (x.strip() for x in line.split(","))))


def median_ms(call, budget_s):
    """Median time of a call in ms, and the spread (90th less 10th percentile, relative)."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for _ in range(2):
        call()
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    count = max(5, min(60, int(budget_s * 1e3 / max(start.elapsed_time(end), 1e-3))))
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
    for a, b in events:
        a.record()
        call()
        b.record()
    torch.cuda.synchronize()
    times = sorted(a.elapsed_time(b) for a, b in events)
    return statistics.median(times), (times[int(0.9 * (count - 1))] - times[int(0.1 * (count - 1))]) / times[count // 2]


class Case:
    """Tensors of one shape, and a call per implementation and pass."""

    def __init__(self, library, dim, length, causal, dtype):
        self.library, self.causal = library, causal
        self.batch, self.length, self.heads, self.dim = TOKENS // length, length, WIDTH // dim, dim
        shape = (self.batch, length, self.heads, dim)
        self.q, self.k, self.v, self.grad_o = (torch.randn(shape, device="cuda", dtype=dtype) for _ in range(4))
        self.o, self.grad_q, self.grad_k, self.grad_v = (torch.empty_like(self.q) for _ in range(4))
        self.lse = torch.empty(self.batch, self.heads, length, device="cuda")
        self.flops = 4 * self.batch * self.heads * length**2 * dim / (2 if causal else 1)

    def heads_first(self):
        return [t.transpose(1, 2) for t in (self.q, self.k, self.v)]

    def ours(self, kernel, what):
        mask = "bottom_right" if self.causal else "none"
        forward = self.library.forward_call(self.q, self.k, self.v, self.o, self.lse, mask, kernel=kernel)
        if what == "forward":
            return forward
        forward()
        return self.library.backward_call(self.q, self.k, self.v, self.o, self.grad_o, self.lse, self.grad_q, self.grad_k, self.grad_v, mask,
                                          deterministic=what == "deterministic", kernel=kernel)

    def fa2(self, what):
        q, k, v = self.heads_first()
        forward = lambda: aten._scaled_dot_product_flash_attention(q, k, v, 0.0, self.causal, False)
        if what == "forward":
            return forward
        out, lse, cum_q, cum_k, max_q, max_k, seed, offset, _ = forward()
        g = self.grad_o.transpose(1, 2)
        return lambda: aten._scaled_dot_product_flash_attention_backward(g, q, k, v, out, lse, cum_q, cum_k, max_q, max_k, 0.0, self.causal, seed, offset)

    def cudnn(self, what):
        q, k, v = self.heads_first()
        forward = lambda: aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, self.causal, False)
        if what == "forward":
            return forward
        out, lse, cum_q, cum_k, max_q, max_k, seed, offset, _ = forward()
        g = self.grad_o.transpose(1, 2)
        return lambda: aten._scaled_dot_product_cudnn_attention_backward(g, q, k, v, out, lse, seed, offset, None, cum_q, cum_k, max_q, max_k, 0.0, self.causal)

    def eager(self, what):
        q, k, v = (t.contiguous().requires_grad_(what != "forward") for t in self.heads_first())
        hidden = torch.ones(self.length, self.length, dtype=torch.bool, device="cuda").triu(1) if self.causal else None

        def forward():
            s = q @ k.transpose(-1, -2) / math.sqrt(self.dim)
            return torch.softmax(s.masked_fill(hidden, -math.inf) if self.causal else s, -1) @ v

        if what == "forward":
            return forward
        out, g = forward(), self.grad_o.transpose(1, 2)
        return lambda: torch.autograd.grad(out, (q, k, v), g, retain_graph=True)

    def check(self, kernel):
        """Our results against FlashAttention-2's on the same tensors (the full check is tests/gpu): relative difference of norms."""
        self.ours(kernel, "backward")()
        pairs = [(self.o, self.fa2("forward")()[0])] + list(zip((self.grad_q, self.grad_k, self.grad_v), self.fa2("backward")()))
        worst = max(float((a.float() - b.transpose(1, 2).float()).norm() / b.float().norm()) for a, b in pairs)
        if not worst < 0.02:
            raise SystemExit(f"wrong result: d={self.dim} S={self.length} causal={self.causal} {kernel}: relative difference {worst}")
        return worst


def measure(case, what, implementations, budget_s):
    factor = 1.0 if what == "forward" else 2.5
    row = {}
    for name in implementations:
        if name == "eager" and 2 * case.batch * case.heads * case.length**2 * 8 > 60e9:
            continue
        try:
            kind, _, kernel = name.partition(":")
            call = case.ours(kernel, what) if kind == "ours" else getattr(case, kind)("backward" if what == "deterministic" else what)
            ms, spread = median_ms(call, budget_s)
            row[name] = {"ms": ms, "spread": spread, "tflops": factor * case.flops / ms * 1e-9}
        except (RuntimeError, AttributeError) as error:
            row[name] = {"error": str(error).split("\n")[0][:200]}
        torch.cuda.empty_cache() if name == "eager" else None
    return row


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values)) if values else float("nan")


def print_table(results, implementations, base):
    ours = [n for n in implementations if n.startswith("ours")]
    for (dtype, what), rows in results.items():
        print(f"\n{what} {dtype}: TFLOP/s of {' / '.join(implementations)}")
        for (dim, causal), cells in rows.items():
            text = "  ".join(f"{s}:" + "/".join(f"{r[n]['tflops']:.0f}" if "tflops" in r.get(n, {}) else "-" for n in implementations) for s, r in cells.items())
            print(f"d{dim:<3} {'causal' if causal else 'full  '} {text}")
        for name in ours:
            ratios = [r[name]["tflops"] / r[base]["tflops"] for cells in rows.values() for r in cells.values() if "tflops" in r.get(base, {}) and "tflops" in r[name]]
            if ratios:
                print(f"{name} over {base}: geometric mean {geometric_mean(ratios):.3f}, worst {min(ratios):.3f}, best {max(ratios):.3f} ({len(ratios)} cells)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json")
    parser.add_argument("--dims", default="64,128,256")
    parser.add_argument("--lengths", default="512,1024,2048,4096,8192,16384")
    parser.add_argument("--passes", default="forward,backward")
    parser.add_argument("--dtypes", default="float16")
    parser.add_argument("--kernels", default="sm80")
    parser.add_argument("--peers", default="fa2,cudnn")
    parser.add_argument("--base", default="fa2")
    parser.add_argument("--budget", type=float, default=0.06)
    a = parser.parse_args()
    torch.manual_seed(0)
    library = Library()
    implementations = [f"ours:{k}" for k in a.kernels.split(",")] + [p for p in a.peers.split(",") if p]
    before = state()
    results = {}
    for dtype in a.dtypes.split(","):
        for dim in map(int, a.dims.split(",")):
            for causal in (False, True):
                for length in map(int, a.lengths.split(",")):
                    case = Case(library, dim, length, causal, getattr(torch, dtype))
                    for kernel in a.kernels.split(","):
                        case.check(kernel)
                    for what in a.passes.split(","):
                        rows = results.setdefault((dtype, what), {}).setdefault((dim, causal), {})
                        rows[length] = measure(case, what, implementations, a.budget)
                    del case
    device = {"before": before, "after": state(), "torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
              "library": library.build_info()}
    if a.json:
        flat = [{"dtype": dt, "pass": w, "head_dim": d, "causal": c, "length": s, "implementation": n, **m}
                for (dt, w), rows in results.items() for (d, c), cells in rows.items() for s, r in cells.items() for n, m in r.items()]
        with open(a.json, "w") as file:
            json.dump({"device": device, "measurements": flat}, file, indent=1)
    print(device)
    print_table(results, implementations, a.base)


if __name__ == "__main__":
    main()
