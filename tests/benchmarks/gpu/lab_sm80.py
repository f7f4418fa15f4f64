#!/usr/bin/env python3
"""Times configurations of the portable kernels and FlashAttention-2, call by call in turns: builds each as a shared object by nvcc, checks it, prints TFLOP/s

usage: python3 lab_sm80.py [--only SUBSTRING,…] [--cells 512,2048,16384] [--masks full,causal] [--build FOLDER]
The variants are the initialisers of native/src/plan/sm80_variants.h. Backward times are of the main kernel alone; FlashAttention-2's of its whole backward.
"""
import argparse
import ctypes
import math
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from peers import Case, apart, state, summary, timed_in_turns  # noqa: E402

SOURCE = os.path.join(HERE, "..", "..", "..", "native")
# name: (pass, head_dim, initialiser); forward: padded_dim, tile_q, tile_kv, warps, stages, q_steps_kept, blocks_per_sm, slices;
# backward: padded_dim, tile_q, tile_kv, warps_kv, warps_q, warps_dq, stages, blocks_per_sm, ahead.
VARIANTS = {
    "f64_128x128_s1": ("F", 64, "64,128,128,4,1,0,2"),
    "f64_128x64_s2": ("F", 64, "64,128,64,4,2,4,2"),
    "f128_128x64_s1": ("F", 128, "128,128,64,4,1,0,2"),
    "f128_128x64_s2": ("F", 128, "128,128,64,4,2,0,2"),
    "f96_128x64_s1": ("F", 96, "96,128,64,4,1,0,2"),
    "f96_128x64_s2": ("F", 96, "96,128,64,4,2,0,2"),
    "f96_128x64_padded": ("F", 96, "128,128,64,4,1,0,2"),
    "f256_64x64_s1": ("F", 256, "256,64,64,4,1,0,2"),
    "f256_64x64_pairs": ("F", 256, "256,64,64,4,1,0,2,2"),
    "f256_128x64_pairs": ("F", 256, "256,128,64,8,1,0,1,2"),
    "f256_128x128_pairs": ("F", 256, "256,128,128,8,1,0,1,2"),
    "f256_64x64_q8": ("F", 256, "256,64,64,4,1,8,2"),
    "f256_128x64_s2": ("F", 256, "256,128,64,8,2,0,1"),
    "b64_64x128_r": ("B", 64, "64,64,128,4,1,2,2,2,0"),
    "b64_64x128_r_ahead": ("B", 64, "64,64,128,4,1,2,2,2,1"),
    "b96_64x128_s2": ("B", 96, "96,64,128,4,2,4,2,1,1"),
    "b96_64x128_s2_ahead2": ("B", 96, "96,64,128,4,2,4,2,1,2"),
    "b96_64x128_s2_ahead0": ("B", 96, "96,64,128,4,2,4,2,1,0"),
    "b96_64x64_b2_s1": ("B", 96, "96,64,64,2,2,2,1,2,1"),
    "b96_64x128_padded": ("B", 96, "128,64,128,4,2,2,2,1,1"),
    "b128_64x128_s2": ("B", 128, "128,64,128,4,2,2,2,1,1"),
    "b128_64x128_s2_ahead0": ("B", 128, "128,64,128,4,2,2,2,1,0"),
    "b128_64x64_b2_s1": ("B", 128, "128,64,64,2,2,2,1,2,1"),
    "b192_64x64": ("B", 192, "192,64,64,2,4,2,2,1,1"),
    "b192_64x64_ahead0": ("B", 192, "192,64,64,2,4,2,2,1,0"),
    "b256_64x64": ("B", 256, "256,64,64,2,4,1,2,1,1"),
    "b256_64x64_dq2": ("B", 256, "256,64,64,2,4,2,2,1,1"),
}


def build(name, folder):
    kind, _, row = VARIANTS[name]
    macro = "LAB_FORWARD" if kind == "F" else "LAB_BACKWARD"
    out = os.path.join(folder, name + ".so")
    wrapper = os.path.join(folder, name + ".cu")  # nvcc would cut a -D with commas in it
    with open(wrapper, "w") as file:
        file.write(f'#define {macro} {{"lab",{row}}}\n#include "{os.path.join(HERE, "lab_sm80.cu")}"\n')
    # Machine code by way of compute_80, as the library is built.
    command = ["nvcc", "-std=c++17", "-O3", "-shared", "-Xcompiler", "-fPIC", f"-I{SOURCE}/include", f"-I{SOURCE}/src", "--expt-relaxed-constexpr",
               f"-gencode=arch=compute_80,code={os.environ.get('LAB_CODE', 'sm_90')}", "-Xptxas=-v", "-diag-suppress=20012", wrapper,
               "-o", out] + os.environ.get("LAB_FLAGS", "").split()
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        return name, None, (result.stdout + result.stderr)[-600:]
    log = result.stdout + result.stderr
    registers = re.search(r"Used (\d+) registers", log).group(1)
    spill = re.search(r"(\d+) bytes spill loads", log).group(1)
    return name, out, f"{registers} registers, {spill} B spill loads"


def pointers(*tensors):
    return [ctypes.c_void_p(t.data_ptr()) for t in tensors]


def call_of(kind, lib, case):
    size = [ctypes.c_int64(x) for x in (case.batch, case.length, case.heads, case.dim)]
    size += [ctypes.c_int(case.causal), ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)]
    if kind == "F":
        arguments = pointers(case.q, case.k, case.v, case.o, case.lse) + size
        return lambda: lib.lab_forward(*arguments)
    arguments = pointers(case.q, case.k, case.v, case.grad_o, case.grad_k, case.grad_v, case.lse_log2, case.delta, case.accumulator) + size
    return lambda: lib.lab_backward(*arguments)


def prepare(case, columns):
    out, lse = case.fa2("forward")()[:2]
    case.out = out.transpose(1, 2)
    case.lse_log2 = (lse.view(case.batch, case.heads, case.length) * math.log2(math.e)).contiguous()
    case.delta = (case.out.float() * case.grad_o.float()).sum(-1).transpose(1, 2).contiguous()
    case.accumulator = torch.zeros(case.q.numel() // case.dim * columns, device="cuda")
    case.gradients = case.fa2("backward")()


def difference(kind, case, call):
    if kind == "F":
        case.o.fill_(float("nan"))
        call()
        return apart(case.o, case.out)
    case.accumulator.zero_()
    case.grad_k.fill_(float("nan"))
    case.grad_v.fill_(float("nan"))
    call()
    worst = max(apart(a, b.transpose(1, 2)) for a, b in zip((case.grad_k, case.grad_v), case.gradients[1:]))
    dq = float(case.gradients[0].float().norm())  # the accumulator's order is the kernel's own: only its norm is compared
    return max(worst, abs(float(case.accumulator.norm()) / math.sqrt(case.dim) - dq) / dq)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--cells", default="512,2048,16384")
    parser.add_argument("--masks", default="full,causal")
    parser.add_argument("--build", default="/tmp/lab_sm80")
    parser.add_argument("--once", action="store_true", help="run every kernel twice and time nothing: for a profiler")
    a = parser.parse_args()
    os.makedirs(a.build, exist_ok=True)
    names = [n for n in VARIANTS if not a.only or any(part in n for part in a.only.split(","))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        built = {n: (out, text) for n, out, text in pool.map(lambda n: build(n, a.build), names)}
    torch.manual_seed(0)
    results = {}
    cells = [(int(s), m == "causal") for m in a.masks.split(",") for s in a.cells.split(",")]
    for dim in sorted({VARIANTS[n][1] for n in names}):
        for length, causal in cells:
            case = Case(None, dim, length, causal, torch.float16)
            prepare(case, max(int(row.split(",")[0]) for _, d, row in VARIANTS.values() if d == dim))
            for what, kind, factor in (("forward", "F", 1), ("backward", "B", 2.5)):
                here = [n for n in names if VARIANTS[n][:2] == (kind, dim) and built[n][0] is not None]
                calls = {f"FA2 d{dim} {what}": case.fa2(what)} if here else {}
                calls.update({n: call_of(kind, ctypes.CDLL(built[n][0]), case) for n in here})
                wrong = {n: difference(kind, case, calls[n]) for n in here}
                torch.cuda.synchronize()
                for n, times in ({} if a.once or not here else timed_in_turns(calls, 0.03)).items():
                    speed = factor * case.flops / summary(times)[0] * 1e-9
                    results.setdefault(n, []).append(f"{speed:.0f}" if n.startswith("FA2") or wrong[n] < 0.01 else f"WRONG({wrong[n]:.1e})")
            del case
    print(state())
    print("cells:", " ".join(f"{s}{'c' if m else ''}" for s, m in cells))
    for n in results:
        print(n.ljust(24), " ".join(results[n]), "|", built[n][1] if n in built else "")
    for n in names:
        if built[n][0] is None:
            print(n.ljust(24), "not built:", built[n][1])


if __name__ == "__main__":
    main()
