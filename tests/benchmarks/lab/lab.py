#!/usr/bin/env python3
"""Laboratory of the Hopper forward kernel: builds several configurations side by side, checks each against a float64 reference, times them with the peers
that PyTorch brings, and prints one table. Needs nvcc, an sm_90 GPU and PyTorch.

usage: lab.py [--checks none|quick|full] [--peers] [--lengths 512,1024,…] [--out DIR] CONFIG …

CONFIG is name=head_dim,warpgroups,tile_kv,stages,overlap_tiles,softmax,ping_pong[,key:value …] with 0/1 for flags and softmax o (optimistic) or l (lazy). Keys:
teams; order (of a causal problem's tiles: 1 pairs, 2 sections, 3 adjacent tiles; default sections); d (head_dim of the problem, default the tile's); bf16:1
(bfloat16 beside the others' type); longest (skip longer problems); root (a folder with another version of native/, to compare with).
A configuration that fails a check is timed all the same; its name then ends in "!".
"""
import argparse
import concurrent.futures
import ctypes
import os
import re
import shutil
import statistics
import subprocess
import sys
import time

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
NATIVE = os.path.normpath(os.path.join(HERE, "..", "..", "..", "native"))
sys.path.insert(0, HERE)
import cases  # noqa: E402
import gpu_state  # noqa: E402


class LabCall(ctypes.Structure):
    """Mirrors LabCall of sm90_forward_variant.cu."""

    _fields_ = (
        [(n, ctypes.c_void_p) for n in ("q", "k", "v", "o", "lse")]
        + [(n, ctypes.c_int64) for n in ("batch", "len_q", "len_kv", "heads_q", "heads_kv", "head_dim", "head_dim_v")]
        + [(n, ctypes.c_int64 * 3) for n in ("q_strides", "k_strides", "v_strides", "o_strides")]
        + [("scale", ctypes.c_float), ("mask", ctypes.c_int32), ("is_bfloat16", ctypes.c_int32), ("multiprocessors", ctypes.c_int64),
           ("order", ctypes.c_int32)]
    )


class Variant:
    def __init__(self, spec, build_dir):
        self.name, values = spec.split("=")
        v = [x for x in values.split(",") if ":" not in x]
        options = dict(x.split(":") for x in values.split(",") if ":" in x)
        self.head_dim, self.warpgroups, self.tile_kv, self.stages = (int(x) for x in v[:4])
        flag = {"0": "false", "1": "true"}
        softmax = {"o": "kOptimisticMaximum", "l": "kLazyRescale"}[v[5]]
        self.teams, self.order = int(options.get("teams", 1)), int(options.get("order", -1))
        self.problem_dim, self.longest = int(options.get("d", self.head_dim)), int(options.get("longest", 1 << 30))
        self.dtype = torch.bfloat16 if "bf16" in options else None
        self.native = options.get("root", NATIVE)
        self.tile = (f"{{{self.head_dim}, {self.warpgroups}, {self.tile_kv}, {self.stages}, {flag[v[4]]}, "
                     f"fa::Sm90Softmax::{softmax}, {flag[v[6]]}, {self.teams}}}")
        self.dir = os.path.join(build_dir, re.sub(r"\W", "_", self.name))
        self.notes = ""
        self.library = None

    def build(self):
        os.makedirs(self.dir, exist_ok=True)
        header = os.path.join(self.dir, "tile.h")
        with open(header, "w") as file:
            file.write(f"#define LAB_TILE {self.tile}\n")
        sources = [os.path.join(HERE, "sm90_forward_variant.cu")] + [
            os.path.join(self.native, "src/kernels/sm90", f) for f in ("tensor_map.cu", "forward/make_params.cu")]
        nvcc = os.environ.get("NVCC") or shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
        command = [nvcc, "-std=c++17", "-O3", "-gencode=arch=compute_90a,code=sm_90a", "--expt-relaxed-constexpr", "-Xptxas=-v", "-diag-suppress=20012",
                   "-I" + os.path.join(self.native, "include"), "-I" + os.path.join(self.native, "src"), "-include", header, "-shared", "-Xcompiler", "-fPIC,-fno-gnu-unique",
                   "-o", os.path.join(self.dir, "variant.so")] + os.environ.get("NVCC_FLAGS", "").split() + sources
        run = subprocess.run(command, capture_output=True, text=True, timeout=300)
        log = run.stdout + run.stderr
        with open(os.path.join(self.dir, "build.log"), "w") as file:
            file.write(log)
        if run.returncode != 0:
            return f"{self.name}: build failed\n{log[-1500:]}"
        spilled = max([int(x) for x in re.findall(r"(\d+) bytes spill stores", log)] or [0])
        # C7519, a fence that ptxas adds, costs nothing; the others of the family mean serialised products or an ignored register split.
        remarks = sorted({re.sub(r" function '.*", "", line)[:160] for line in log.splitlines() if re.search(r"C75(?!19)\d\d", line)})
        self.notes = f"spill {spilled} B" + "".join(f" [{remark}]" for remark in remarks)
        return None

    def load(self):
        self.library = ctypes.CDLL(os.path.join(self.dir, "variant.so"))
        self.library.lab_message.restype = ctypes.c_char_p

    def call(self, q, k, v, o, lse, mask, scale):
        """Tensors are (batch, len, heads, head_dim) views."""
        strides = lambda t: (ctypes.c_int64 * 3)(*[t.stride(i) if t.shape[i] > 1 else 0 for i in range(3)])
        return LabCall(q.data_ptr(), k.data_ptr(), v.data_ptr(), o.data_ptr(), lse.data_ptr() if lse is not None else None, q.shape[0], q.shape[1], k.shape[1],
                       q.shape[2], k.shape[2], q.shape[3], v.shape[3], strides(q), strides(k), strides(v), strides(o), scale, mask,
                       int(q.dtype == torch.bfloat16), torch.cuda.get_device_properties(0).multi_processor_count, self.order)

    def check(self, status):
        if status != 0:
            raise RuntimeError(self.library.lab_message().decode())

    def run(self, *args):
        self.check(self.library.lab_run(ctypes.byref(self.call(*args))))

    def time(self, repeats, *args):
        out = (ctypes.c_float * repeats)()
        self.check(self.library.lab_time(ctypes.byref(self.call(*args)), repeats, out))
        return list(out)


def time_calls(function, repeats):
    events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    events[0].record()
    for event in events[1:]:
        function()
        event.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) for a, b in zip(events, events[1:])]


def peer_times(name, q, k, v, causal, repeats):
    """FlashAttention-2 or cuDNN through PyTorch, on the same tensors."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    backend = {"FA2": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}[name]
    heads_first = [t.transpose(1, 2) for t in (q, k, v)]
    call = lambda: torch.nn.functional.scaled_dot_product_attention(*heads_first, is_causal=causal, enable_gqa=q.shape[2] != k.shape[2])
    with sdpa_kernel(backend):
        time_calls(call, 3)
        return time_calls(call, repeats)


def measure(variants, lengths, peers, masks, dtype, group, growth):
    rows = []
    for head_dim in sorted({v.problem_dim for v in variants}):
        for causal in masks:
            for length in lengths:
                batch, heads = max(1, 16384 // length), 2048 // head_dim
                make = lambda h: torch.randn(batch, length, h, head_dim, device="cuda", dtype=torch.float32).to(dtype)
                q, k, v = make(heads), make(heads // group), make(heads // group)
                if growth:
                    # Logits that grow by this much from one key tile to the next, in the order in which the kernel takes them: every tile takes the slow path.
                    tiles = torch.arange(length - 1, -1, -1, device="cuda") // 128
                    q[..., 0] = 16.0
                    k[..., 0] = (growth * head_dim ** 0.5 / 16.0 * tiles).to(dtype)[None, :, None]
                o = torch.empty_like(q)
                lse = torch.empty(batch, heads, length, device="cuda")
                flops = 4.0 * batch * heads * length * length * head_dim * (0.5 if causal else 1.0)
                repeats = max(3, min(40, int(0.015 / (flops / 6e14))))
                cells, state = {}, gpu_state.Sampler()
                # In turns, so that a warming GPU treats all alike.
                for _ in range(3):
                    for variant in [x for x in variants if x.problem_dim == head_dim and length <= x.longest]:
                        tensors = [t.to(variant.dtype) for t in (q, k, v, o)] if variant.dtype else (q, k, v, o)
                        args = (*tensors, lse, 1 if causal else 0, head_dim ** -0.5)
                        variant.time(2, *args)
                        with state:
                            cells.setdefault(variant.name, []).extend(variant.time(repeats, *args))
                    for name in peers:
                        cells.setdefault(name, []).extend(peer_times(name, q, k, v, causal, repeats))
                cells = {name: statistics.median(times) for name, times in cells.items()}
                rows.append((head_dim, causal, length, {n: flops / (ms * 1e9) for n, ms in cells.items()}, state.text()))
    return rows


def print_rows(rows, title):
    for head_dim in sorted({r[0] for r in rows}):
        mine = [r for r in rows if r[0] == head_dim]
        names = list(dict.fromkeys(n for r in mine for n in r[3]))
        print(f"{title} d={head_dim}, TFLOP/s")
        print("mask    len   " + " ".join(f"{n:>9}" for n in names) + "   clock/power")
        for _, causal, length, cells, state in mine:
            print(f"{'causal' if causal else 'full':6} {length:6d} " + " ".join(f"{cells[n]:9.0f}" if n in cells else 9 * " " for n in names) + "   " + state)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+")
    parser.add_argument("--checks", choices=["none", "quick", "full"], default="quick")
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--lengths", default="512,1024,2048,4096,8192,16384")
    parser.add_argument("--masks", default="full,causal")
    parser.add_argument("--dtype", choices=["float16", "bfloat16"], default="float16")
    parser.add_argument("--group", type=int, default=1, help="query heads per key head")
    parser.add_argument("--growth", type=float, default=0.0, help="growth of the logits from key tile to key tile")
    parser.add_argument("--out", default="lab-build")
    parser.add_argument("--prebuilt", action="store_true", help="take the shared objects that lie in the folder of --out")
    options = parser.parse_args()

    variants = [Variant(spec, options.out) for spec in options.configs]
    started = time.time()
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        errors = list(pool.map(lambda v: None if options.prebuilt else v.build(), variants))
    for error in filter(None, errors):
        print(error)
    variants = [v for v, e in zip(variants, errors) if e is None]
    print(f"built {len(variants)} in {time.time() - started:.0f} s: " + "; ".join(f"{v.name} {v.notes}" for v in variants))

    sound = True
    for variant in variants:
        variant.load()
        if options.checks != "none" and not cases.check(variant, full=options.checks == "full"):
            variant.name += "!"
            sound = False
    print(f"checked at {time.time() - started:.0f} s", flush=True)
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)
    b = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)
    lengths = [int(x) for x in options.lengths.split(",") if x]
    if lengths:
        rows = measure(variants, lengths, ["FA2", "cuDNN"] if options.peers else [], [m == "causal" for m in options.masks.split(",")],
                       getattr(torch, options.dtype), options.group, options.growth)
        time_calls(lambda: a @ b, 5)
        product = 2 * 8192 ** 3 / (statistics.median(time_calls(lambda: a @ b, 30)) * 1e9)
        print_rows(rows, f"{options.dtype}, {options.group} query heads per key head, logits growing by {options.growth:g},")
        print(f"8192^3 matrix product right afterwards: {product:.0f} TFLOP/s; {gpu_state.now()}; {time.time() - started:.0f} s in all")
    return 0 if sound and len(variants) == len(options.configs) else 1


if __name__ == "__main__":
    sys.exit(main())
