#!/usr/bin/env python3
"""What the deterministic mode costs: our default and our deterministic backward pass on the same tensors, in turns call by call; results compared first.

usage: FLASH_ATTENTION_LIBRARY=…/libflash_attention.so python3 deterministic.py [--json FILE] [--dims 64,128,256] [--lengths 512,…,16384] [--dtypes float16]
           [--kernel auto] [--budget SECONDS_PER_MEASUREMENT] [--limit 0.15]

The grid and the way of measuring are those of peers.py. Cost: deterministic time over default time, less one. Ends with 1 if a cell costs more than --limit.
"""
import argparse
import sys
import time

import torch

import peers

MODES = {"default": "backward", "deterministic": "deterministic"}


def gradients(case, call):
    """Copies of the gradients of a call, from outputs full of NaN."""
    outputs = (case.grad_q, case.grad_k, case.grad_v)
    for t in outputs:
        t.fill_(float("nan"))
    call()
    return [t.clone() for t in outputs]


def compare(case, calls, where):
    """Stops the run where the modes' gradients differ by more than rounding, or the deterministic ones from run to run."""
    default, first, second = (gradients(case, calls[name]) for name in ("default", "deterministic", "deterministic"))
    if not all(torch.equal(a, b) for a, b in zip(first, second)):
        raise SystemExit(f"{where}: two deterministic runs differ")
    worst = max(peers.apart(a, b) for a, b in zip(first, default))
    if not worst < 0.02:
        raise SystemExit(f"{where}: deterministic and default gradients differ by {worst:.1e}")


def measure(library, dtype, dim, causal, length, kernel, budget_s):
    """{mode: measurement} and their ratio of times."""
    case = peers.Case(library, dim, length, causal, getattr(torch, dtype))
    calls = {name: case.ours(kernel, what) for name, what in MODES.items()}
    compare(case, calls, f"{dtype} d{dim} {'causal' if causal else 'full'} {length}")
    times = peers.timed_in_turns(calls, budget_s)
    row = {name: peers.measured(case, "backward", times[name], 0) for name in MODES}
    return row, row["deterministic"]["ms"] / row["default"]["ms"] - 1


def print_table(costs, rows, lengths):
    print("TFLOP/s default/deterministic, cost of the deterministic mode in time")
    for dtype, dim, causal in dict.fromkeys(key[:3] for key in rows):
        cells = []
        for length in lengths:
            row = rows[dtype, dim, causal, length]
            cells.append(f"{length}: {row['default']['tflops']:.0f}/{row['deterministic']['tflops']:.0f} {100 * costs[dtype, dim, causal, length]:+.1f} %")
        print(f"{dtype} d{dim:<3} {'causal' if causal else 'full  '}  " + "   ".join(cells))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json")
    parser.add_argument("--dims", default="64,128,256")
    parser.add_argument("--lengths", default="512,1024,2048,4096,8192,16384")
    parser.add_argument("--dtypes", default="float16")
    parser.add_argument("--kernel", default="auto")
    parser.add_argument("--budget", type=float, default=0.06)
    parser.add_argument("--limit", type=float, default=0.15)
    a = parser.parse_args()
    torch.manual_seed(0)
    library, before, begin = peers.Library(), peers.state(), time.monotonic()
    lengths = [int(x) for x in a.lengths.split(",")]
    rows, costs = {}, {}
    for cell in peers.grid(a):
        rows[cell], costs[cell] = measure(library, *cell, a.kernel, a.budget)
    print_table(costs, rows, lengths)
    worst = max(costs, key=costs.get)
    above = sum(not cost <= a.limit for cost in costs.values())
    print(f"{len(costs)} cells, mean {100 * sum(costs.values()) / len(costs):+.1f} %, worst {100 * costs[worst]:+.1f} % ({worst}), "
          f"{above} above {100 * a.limit:.0f} %; {time.monotonic() - begin:.0f} s, {peers.state()['power.draw']}")
    if a.json:
        flat = [{"dtype": dt, "head_dim": d, "causal": c, "length": s, "cost": costs[dt, d, c, s], **row} for (dt, d, c, s), row in rows.items()]
        device = peers.device_facts(library, before)
        peers.write_json(a.json, {"device": device, "tokens": peers.TOKENS, "width": peers.WIDTH, "kernel": a.kernel, "cells": flat})
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())
