#!/usr/bin/env python3
"""Our kernels beside FlashAttention-2 and cuDNN (both through PyTorch) and naive eager attention, on the same tensors in one run; correctness first.

usage: FLASH_ATTENTION_LIBRARY=…/libflash_attention.so python3 peers.py [--json FILE] [--plots] [--dims 64,128,256] [--lengths 512,…,16384]
           [--passes forward,backward,deterministic] [--dtypes float16,bfloat16] [--kernels auto,sm80] [--peers fa2,cudnn,efficient,eager] [--base fa2,eager]
           [--budget SECONDS_PER_MEASUREMENT] [--publish]

--publish measures everything that tests/benchmarks/results holds and writes <date>-<device>.json and its plots there (plots.py).

Grid: batch * length = 16384, heads * head_dim = 2048, random normal inputs (B, S, H, D). Times are CUDA events around one call, the median of many calls; all
but eager attention take turns call by call, in orders in which each follows each of the others equally often. For where power is limited, the clocks of the
next 50 ms are those that the last 50 ms earned: measured one after the other, a kernel loses up to 20 % behind one that draws more power. The tensors of a
case are larger than the second-level cache, so every call starts from device memory. TFLOP/s: forward 4 B H S^2 d (half if causal), backward 2.5
times that. Extra memory: what a call allocates beside its inputs and outputs; for eager backward with what its forward keeps for it, for ours the workspace
and the log-sum-exp.
"""
import argparse
import datetime
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "gpu"))
from fa_ctypes import Library  # noqa: E402

TOKENS, WIDTH = 16384, 2048
MIN_ROUNDS = 5
# What is measured unless the command line says otherwise.
USUAL = {"dtypes": "float16", "kernels": "sm80", "peers": "fa2,cudnn", "base": "fa2"}
PUBLISHED = {"dtypes": "float16,bfloat16", "kernels": "auto,sm80", "peers": "fa2,cudnn,eager", "base": "fa2,cudnn,eager"}
PASSES = ("forward", "backward", "deterministic")
aten = torch.ops.aten


def state():
    fields = "name,driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu"
    line = subprocess.run(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"], capture_output=True, text=True).stdout.strip().split("\n")[0]
    return dict(zip(fields.split(","), (x.strip() for x in line.split(","))))


def timed(call, count):
    """Times of `count` calls in ms, after one that is not timed."""
    call()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
    for start, end in events:
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in events]


def rounds_within(round_ms, budget_s):
    """How many rounds fill the budget: at least 5, at most 60."""
    return max(5, min(60, int(budget_s * 1e3 / max(round_ms, 1e-3))))


def calls_within(call, budget_s):
    return rounds_within(timed(call, 1)[0], budget_s)


def summary(times):
    """Median time in ms, and the spread (90th less 10th percentile, relative)."""
    times = sorted(times)
    median = statistics.median(times)
    return median, (times[int(0.9 * (len(times) - 1))] - times[int(0.1 * (len(times) - 1))]) / median


def median_ms(call, budget_s):
    return summary(timed(call, calls_within(call, budget_s)))


def apart(got, want):
    """Relative difference of norms."""
    return float((got.float() - want.float()).norm() / want.float().norm())


class Case:
    """Tensors of one shape, that of the grid unless batch and heads are given, and a call per implementation and pass."""

    def __init__(self, library, dim, length, causal, dtype, batch=None, heads=None):
        self.library, self.causal = library, causal
        self.batch, self.length, self.heads, self.dim = batch or TOKENS // length, length, heads or WIDTH // dim, dim
        shape = (self.batch, length, self.heads, dim)
        self.q, self.k, self.v, self.grad_o = (torch.randn(shape, device="cuda", dtype=dtype) for _ in range(4))
        self.o, self.grad_q, self.grad_k, self.grad_v = (torch.empty_like(self.q) for _ in range(4))
        self.lse = torch.empty(self.batch, self.heads, length, device="cuda")
        self.eager_inputs = None
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

    def extra_bytes(self, kind, what, make):
        """Peak device memory that making and running a call takes beside its results; those of ours are there already."""
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call = make()
        results = call()  # noqa: F841 (kept until the peak is read)
        torch.cuda.synchronize()
        if kind == "ours":
            return call, torch.cuda.max_memory_allocated() - before + self.lse.numel() * 4
        # o; for backward, whose peers compute o in make, also the three gradients.
        return call, torch.cuda.max_memory_allocated() - before - (1 if what == "forward" else 4) * self.q.numel() * self.q.element_size()

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

    def by_autograd(self, what, forward, leaves):
        """A pass of attention that is a function of leaves which need gradients."""
        if what == "forward":
            return forward
        out, g = forward(), self.grad_o.transpose(1, 2)
        return lambda: torch.autograd.grad(out, leaves, g, retain_graph=True)

    def efficient(self, what):
        """PyTorch's memory-efficient attention, the peer without a bound on head_dim."""
        q, k, v = (t.detach().requires_grad_(what != "forward") for t in self.heads_first())

        def forward():
            with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
                return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)

        return self.by_autograd(what, forward, (q, k, v))

    def eager(self, what):
        q, k, v = (t.detach().requires_grad_(what != "forward") for t in self.eager_inputs)
        hidden = torch.ones(self.length, self.length, dtype=torch.bool, device="cuda").triu(1) if self.causal else None

        def forward():
            s = q @ k.transpose(-1, -2) / math.sqrt(self.dim)
            return torch.softmax(s.masked_fill(hidden, -math.inf) if self.causal else s, -1) @ v

        return self.by_autograd(what, forward, (q, k, v))

    def check(self, kernel):
        """Our results against FlashAttention-2's on the same tensors (the full check is tests/gpu): relative difference of norms. Beyond its head_dim, against
        memory-efficient attention's."""
        self.ours(kernel, "backward")()
        out, gradients = (self.fa2("forward")()[0], self.fa2("backward")()) if self.dim <= 256 else (self.efficient("forward")(), self.efficient("backward")())
        pairs = [(self.o, out)] + list(zip((self.grad_q, self.grad_k, self.grad_v), gradients))
        worst = max(apart(a, b.transpose(1, 2)) for a, b in pairs)
        if not worst < 0.02:
            raise SystemExit(f"wrong result: d={self.dim} S={self.length} causal={self.causal} {kernel}: relative difference {worst}")
        return worst


def fits_eager(case, what):
    """Whether the score matrices that eager attention holds at a time (forward: scores, scaled, masked; backward: also P, dP and dS) fit into memory."""
    matrix = case.q.element_size() * case.batch * case.heads * case.length**2
    return (4 if what == "forward" else 7) * matrix < torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def prepare(case, what, name):
    """The call of an implementation, and the device memory it takes."""
    kind, _, kernel = name.partition(":")
    peer_what = "backward" if what == "deterministic" else what
    return case.extra_bytes(kind, what, (lambda: case.ours(kernel, what)) if kind == "ours" else (lambda: getattr(case, kind)(peer_what)))


def failed(error):
    return {"error": str(error).split("\n")[0][:200]}


def measured(case, what, times, extra):
    ms, spread = summary(times)
    return {"ms": ms, "spread": spread, "tflops": (1.0 if what == "forward" else 2.5) * case.flops / ms * 1e-9, "extra_bytes": extra}


def orders_of(names):
    """Orders in which every name follows every other equally often (a Williams design)."""
    n = len(names)
    zigzag = [(i + 1) // 2 if i % 2 else -(i // 2) % n for i in range(n)]
    rows = [[names[(place + shift) % n] for place in zigzag] for shift in range(n)]
    return rows + [row[::-1] for row in rows] if n % 2 else rows


def timed_in_turns(calls, budget_s):
    """{name: times in ms} of {name: call}; budget_s is per name, for at least MIN_ROUNDS calls of each."""
    orders = orders_of(list(calls))
    round_ms = sum(min(timed(call, 2)) for call in calls.values())
    rounds = max(MIN_ROUNDS, min(60, int(budget_s * 1e3 * len(calls) / round_ms)))
    events = []
    for turn in range(-(-rounds // len(orders)) * len(orders)):
        for name in orders[turn % len(orders)]:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            calls[name]()
            end.record()
            events.append((name, start, end))
    torch.cuda.synchronize()
    return {name: [start.elapsed_time(end) for n, start, end in events if n == name] for name in calls}


def measure_in_turns(case, what, names, budget_s):
    """{name: measurement}."""
    calls, extras, row = {}, {}, {}
    for name in names:
        try:
            calls[name], extras[name] = prepare(case, what, name)
        except (RuntimeError, AttributeError) as error:
            calls.pop(name, None)
            row[name] = failed(error)
    times = timed_in_turns(calls, budget_s) if calls else {}
    return row | {name: measured(case, what, times[name], extras[name]) for name in times}


def measure_eager(case, what, budget_s):
    """Eager attention by itself, since its matrices may take most of the memory; {} if they do not fit."""
    if not fits_eager(case, what):
        return {}
    call = None
    try:
        case.eager_inputs = [t.contiguous() for t in case.heads_first()]
        call, extra = prepare(case, what, "eager")
        return {"eager": measured(case, what, timed(call, calls_within(call, budget_s)), extra)}
    except (RuntimeError, AttributeError) as error:
        return {"eager": failed(error)}
    finally:
        call = case.eager_inputs = None
        torch.cuda.empty_cache()


def measure(case, what, implementations, budget_s):
    row = measure_in_turns(case, what, [name for name in implementations if name != "eager"], budget_s)
    return row | measure_eager(case, what, budget_s) if "eager" in implementations else row


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values)) if values else float("nan")


def print_table(results, implementations, bases):
    for (dtype, what), rows in results.items():
        print(f"\n{what} {dtype}: TFLOP/s of {' / '.join(implementations)}")
        for (dim, causal), cells in rows.items():
            def cell(row):
                return "/".join(f"{row[n]['tflops']:.0f}" if "tflops" in row.get(n, {}) else "-" for n in implementations)

            print(f"d{dim:<3} {'causal' if causal else 'full  '}", "  ".join(f"{length}:{cell(row)}" for length, row in cells.items()))
        for base in bases:
            for name in (n for n in implementations if n.startswith("ours") and n != base):
                ratios = {(dim, causal, s): r[name]["tflops"] / r[base]["tflops"] for (dim, causal), cells in rows.items() for s, r in cells.items()
                          if "tflops" in r.get(base, {}) and "tflops" in r.get(name, {})}
                if ratios:
                    dim, causal, length = worst = min(ratios, key=ratios.get)
                    print(f"{name} over {base}: geometric mean {geometric_mean(list(ratios.values())):.3f}, worst {ratios[worst]:.3f} "
                          f"(d{dim} {'causal' if causal else 'full'} {length}), best {max(ratios.values()):.3f} ({len(ratios)} cells)")


def print_memory(results):
    """Extra memory of our kernels as a part of eager's, where both were measured: the largest part at each length."""
    for (dtype, what), rows in results.items():
        parts = {}
        for cells in rows.values():
            for length, row in cells.items():
                if "extra_bytes" not in row.get("eager", {}):
                    continue
                for name, m in row.items():
                    if name.startswith("ours") and "extra_bytes" in m:
                        parts.setdefault(length, []).append(m["extra_bytes"] / row["eager"]["extra_bytes"])
        if parts:
            print(f"{what} {dtype}: extra memory of ours over eager's, at most " + ", ".join(f"{max(v):.2%} at {s}" for s, v in sorted(parts.items())))


def matrix_product_tflops(size=8192):
    """What PyTorch's product of two square fp16 matrices reaches: the rate that no attention kernel can exceed."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.float16) for _ in range(2))
    return 2 * size**3 / median_ms(lambda: a @ b, 0.06)[0] * 1e-9


def device_facts(library, before):
    return {"before": before, "after": state(), "matrix_product_tflops": matrix_product_tflops(), "torch": torch.__version__, "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(), "library": library.build_info(),
            "utc": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")}


def grid(a):
    """The cells that the arguments name: (dtype, head_dim, causal, length)."""
    return [(dtype, dim, causal, length) for dtype in a.dtypes.split(",") for dim in map(int, a.dims.split(",")) for causal in (False, True)
            for length in map(int, a.lengths.split(","))]


def pass_names(text):
    """The value of --passes, once every name in it is one."""
    wrong = [name for name in text.split(",") if name not in PASSES]
    if wrong:
        raise argparse.ArgumentTypeError(f"expected some of {','.join(PASSES)}, got '{wrong[0]}'")
    return text


def add_grid_arguments(parser):
    parser.add_argument("--dims", default="64,128,256")
    parser.add_argument("--lengths", default="512,1024,2048,4096,8192,16384")
    parser.add_argument("--passes", type=pass_names, default="forward,backward")


def run(a, library):
    """All measurements: {(dtype, pass): {(head_dim, causal): {length: {implementation: measurement}}}}."""
    implementations = [f"ours:{k}" for k in a.kernels.split(",")] + [p for p in a.peers.split(",") if p]
    cells, results, begin = grid(a), {}, time.monotonic()
    for index, (dtype, dim, causal, length) in enumerate(cells):
        where = f"{dtype} d{dim} {'causal' if causal else 'full'} {length}"
        print(f"[{index + 1}/{len(cells)}] {time.monotonic() - begin:4.0f} s  {where}", file=sys.stderr, flush=True)
        case = Case(library, dim, length, causal, getattr(torch, dtype))
        for kernel in a.kernels.split(","):
            case.check(kernel)
        for what in a.passes.split(","):
            results.setdefault((dtype, what), {}).setdefault((dim, causal), {})[length] = measure(case, what, implementations, a.budget)
        del case
    return results, implementations


def write_json(path, data):
    with open(path, "w") as file:
        json.dump(data, file, indent=1)
        file.write("\n")


def save(path, device, results):
    flat = [{"dtype": dt, "pass": w, "head_dim": d, "causal": c, "length": s, "implementation": n, **m}
            for (dt, w), rows in results.items() for (d, c), cells in rows.items() for s, r in cells.items() for n, m in r.items()]
    write_json(path, {"device": device, "tokens": TOKENS, "width": WIDTH, "measurements": flat})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json")
    parser.add_argument("--plots", action="store_true", help="draw the plots beside the JSON file")
    parser.add_argument("--publish", action="store_true", help="the whole grid in both types with every peer, into tests/benchmarks/results")
    add_grid_arguments(parser)
    parser.add_argument("--dtypes")
    parser.add_argument("--kernels")
    parser.add_argument("--peers")
    parser.add_argument("--base")
    parser.add_argument("--budget", type=float, default=0.06)
    a = parser.parse_args()
    for name, value in (PUBLISHED if a.publish else USUAL).items():
        if getattr(a, name) is None:
            setattr(a, name, value)
    torch.manual_seed(0)
    library = Library()
    before = state()
    if a.publish and not a.json:
        folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "results")
        os.makedirs(folder, exist_ok=True)
        name = re.sub(r"[^a-z0-9]+", "-", before["name"].lower()).strip("-")
        a.json = os.path.join(folder, f"{datetime.date.today().isoformat()}-{name}.json")
    results, implementations = run(a, library)
    device = device_facts(library, before)
    if a.json:
        save(a.json, device, results)
    print(device)
    print_table(results, implementations, a.base.split(","))
    print_memory(results)
    if (a.plots or a.publish) and a.json:
        import plots

        plots.draw(a.json)


if __name__ == "__main__":
    main()
