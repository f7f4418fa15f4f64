#!/usr/bin/env python3
"""Two builds of the library in one process, call by call in turns on the same tensors: whether a change made the kernels slower. Their results are compared
first, with each other and with FlashAttention-2's.

usage: python3 compare_libraries.py --old A/libflash_attention.so --new B/libflash_attention.so [--dims 64,128,256] [--lengths 512,…,16384]
           [--passes forward,backward,deterministic] [--dtypes float16] [--kernel auto] [--budget SECONDS_PER_MEASUREMENT] [--least 0.98] [--json FILE]

Shapes, times and budget as in peers.py. Printed: the speed of the new library as a multiple of the old one's, per cell, the median of the ratios of
neighbouring calls; then the geometric mean and the worst cell of each pass. Exit code 1 if results differ or, with --least, if a cell is slower than that. The
same build twice shows how far apart equal kernels are measured.
"""
import argparse
import copy
import os
import shutil
import statistics
import sys
import tempfile

import torch

import peers
from fa_ctypes import Library  # peers knows its folder

# Relative difference of norms up to which two kernels of ours agree: they round P and dS alike, but to different references.
AGREE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def cases_of(libraries, dim, length, causal, dtype):
    """{name: case}: the same inputs, outputs of each library's own."""
    first = peers.Case(libraries["old"], dim, length, causal, dtype)
    second = copy.copy(first)
    second.library = libraries["new"]
    for name in ("o", "lse", "grad_q", "grad_k", "grad_v"):
        setattr(second, name, torch.empty_like(getattr(first, name)))
    return {"old": first, "new": second}


def check(cases, kernel, passes, dtype):
    """The largest difference between the libraries' results."""
    cases["new"].check(kernel)
    worst = 0.0
    for what in passes:
        for case in cases.values():
            for name in ("o", "lse") if what == "forward" else ("grad_q", "grad_k", "grad_v"):
                getattr(case, name).fill_(float("nan"))
            case.ours(kernel, what)()
        for name in ("o", "lse") if what == "forward" else ("grad_q", "grad_k", "grad_v"):
            difference = peers.apart(getattr(cases["new"], name), getattr(cases["old"], name))
            if not difference <= AGREE[dtype]:
                case = cases["new"]
                raise SystemExit(f"the libraries disagree: {what} d={case.dim} S={case.length} causal={case.causal}: {name} differs by {difference:.1e}")
            worst = max(worst, difference)
    return worst


def compare(a, libraries):
    """Ratios {(dtype, pass): {(head_dim, causal): {length: old time over new}}}, measurements as peers.py saves them, and the largest difference."""
    ratios, results, worst = {}, {}, 0.0
    passes = a.passes.split(",")
    for dtype, dim, causal, length in peers.grid(a):
        cases = cases_of(libraries, dim, length, causal, getattr(torch, dtype))
        worst = max(worst, check(cases, a.kernel, passes, getattr(torch, dtype)))
        for what in passes:
            times = peers.timed_in_turns({name: case.ours(a.kernel, what) for name, case in cases.items()}, a.budget)
            row = {name: peers.measured(cases[name], what, times[name], 0) for name in times}
            results.setdefault((dtype, what), {}).setdefault((dim, causal), {})[length] = row
            # Of neighbouring calls: what else the GPU did then, it did to both.
            ratio = statistics.median(old / new for old, new in zip(times["old"], times["new"]))
            ratios.setdefault((dtype, what), {}).setdefault((dim, causal), {})[length] = ratio
        del cases
    return ratios, results, worst


def print_ratios(ratios, results):
    """The tables; returns the smallest ratio of all."""
    smallest = float("inf")
    for (dtype, what), rows in ratios.items():
        print(f"\n{what} {dtype}: speed of new over old (TFLOP/s of new)")
        for (dim, causal), cells in rows.items():
            rates = results[dtype, what][dim, causal]
            print(f"d{dim:<3} {'causal' if causal else 'full  '}", "  ".join(f"{s}: {x:.3f} ({rates[s]['new']['tflops']:.0f})" for s, x in cells.items()))
        flat = {(dim, causal, s): x for (dim, causal), cells in rows.items() for s, x in cells.items()}
        dim, causal, length = worst = min(flat, key=flat.get)
        print(f"{what} {dtype}: geometric mean {peers.geometric_mean(list(flat.values())):.3f}, worst {flat[worst]:.3f} "
              f"(d{dim} {'causal' if causal else 'full'} {length}), {sum(x < 0.98 for x in flat.values())} of {len(flat)} cells below 0.98")
        smallest = min(smallest, flat[worst])
    return smallest


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", required=True)
    parser.add_argument("--new", required=True)
    peers.add_grid_arguments(parser)
    parser.add_argument("--dtypes", default="float16")
    parser.add_argument("--kernel", default="auto")
    parser.add_argument("--budget", type=float, default=0.04)
    parser.add_argument("--least", type=float, default=0.0, help="fail if a cell is slower than this multiple of the old library's speed")
    parser.add_argument("--json")
    a = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        # The loader would take one file twice for the same library.
        new = shutil.copy(a.new, folder) if os.path.realpath(a.new) == os.path.realpath(a.old) else a.new
        libraries = {"old": Library(a.old), "new": Library(new)}
        for name, library in libraries.items():
            print(f"{name}: {library.build_info()}")
        before = peers.state()
        ratios, results, difference = compare(a, libraries)
    smallest = print_ratios(ratios, results)
    facts = peers.device_facts(libraries["new"], before)
    power, product = facts["after"].get("power.draw"), facts["matrix_product_tflops"]
    print(f"\nlargest difference of results {difference:.1e}; {power}, 8192^3 product at {product:.0f} TFLOP/s")
    if a.json:
        peers.save(a.json, facts, results)
    return 1 if smallest < a.least else 0


if __name__ == "__main__":
    sys.exit(main())
