"""What the laboratories share: masks and guarded tensors of the checks, configurations as shared objects, building them side by side, times and tables."""
import argparse
import concurrent.futures
import ctypes
import math
import os
import re
import shutil
import statistics
import subprocess
import time

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.normpath(os.path.join(HERE, "..", "..", ".."))
NONE, TOP_LEFT, BOTTOM_RIGHT = 0, 1, 2
# Rounding of the formats.
EPS = {torch.float16: 2.0 ** -11, torch.bfloat16: 2.0 ** -8}
FENCE = 7.0


def visible(len_q, len_kv, mask):
    """(len_q, len_kv) booleans: query i sees key j."""
    i, j = torch.arange(len_q, device="cuda")[:, None], torch.arange(len_kv, device="cuda")[None, :]
    if mask == NONE:
        return torch.ones(len_q, len_kv, dtype=torch.bool, device="cuda")
    return j <= i + (len_kv - len_q if mask == BOTTOM_RIGHT else 0)


def inside_nan(shape, dtype, layout):
    """An uninitialised (batch, len, heads, head_dim) view inside a larger tensor of NaN."""
    b, s, h, d = shape
    wide = (d + 7) // 8 * 8
    if layout == "bhsd":
        return torch.full((b, h, s + 3, wide), math.nan, device="cuda", dtype=dtype).transpose(1, 2)[:, :s, :, :d]
    return torch.full((b, s + 3, h + 1, wide + 8), math.nan, device="cuda", dtype=dtype)[:, :s, :h, :d]


def fenced(shape, dtype):
    """A poisoned output and the fenced tensor around it."""
    count = math.prod(shape)
    room = torch.full((count + 8192,), FENCE, device="cuda", dtype=dtype)
    view = room[4096:4096 + count].view(shape)
    view.fill_(math.nan)
    return view, room


def is_whole(room):
    """Whether nothing was written into the fence."""
    return bool((room[:4096] == FENCE).all()) and bool((room[room.numel() - 4096:] == FENCE).all())


def finite_elsewhere(got, want):
    """None, or where NaN and infinity stand otherwise than they must."""
    wrong = (got.isfinite() != want.isfinite()).nonzero()
    return f"finite where it must not be or the reverse, {len(wrong)} elements, first {wrong[0].tolist()}" if len(wrong) else None


def strides(t):
    """Those of a (batch, len, heads, head_dim) view but for the last."""
    return (ctypes.c_int64 * 3)(*[t.stride(i) if t.shape[i] > 1 else 0 for i in range(3)])


class Loaded:
    """A shared object with lab_run, lab_time and lab_message. A call of its kernels is the structure that it takes."""

    library = None

    def load(self, path):
        self.library = ctypes.CDLL(path)
        self.library.lab_message.restype = ctypes.c_char_p

    def check(self, status):
        if status != 0:
            raise RuntimeError(self.library.lab_message().decode())

    def launch(self, call):
        self.check(self.library.lab_run(ctypes.byref(call)))

    def time(self, repeats, call):
        out = (ctypes.c_float * repeats)()
        self.check(self.library.lab_time(ctypes.byref(call), repeats, out))
        return list(out)


class Configuration(Loaded):
    """A kernel with one tile, which nvcc makes a shared object of. native: a version of native/; parts: what wrapper needs of its src/kernels/sm90."""

    def __init__(self, name, tile, native, wrapper, parts, build_dir):
        self.name, self.tile, self.native = name, tile, native
        self.sources = [wrapper] + [os.path.join(native, "src/kernels/sm90", part) for part in parts]
        self.dir = os.path.join(build_dir, re.sub(r"\W", "_", name))
        self.notes = ""

    def build(self):
        """None, or why it failed."""
        os.makedirs(self.dir, exist_ok=True)
        header = os.path.join(self.dir, "tile.h")
        with open(header, "w") as file:
            file.write(f"#define LAB_TILE {self.tile}\n")
        nvcc = os.environ.get("NVCC") or shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
        command = [nvcc, "-std=c++17", "-O3", "-gencode=arch=compute_90a,code=sm_90a", "--expt-relaxed-constexpr", "-Xptxas=-v", "-diag-suppress=20012",
                   "-I" + os.path.join(self.native, "include"), "-I" + os.path.join(self.native, "src"), "-include", header, "-shared",
                   "-Xcompiler", "-fPIC,-fno-gnu-unique", "-o", os.path.join(self.dir, "variant.so")] + os.environ.get("NVCC_FLAGS", "").split() + self.sources
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
        super().load(os.path.join(self.dir, "variant.so"))


def time_calls(function, repeats):
    events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    events[0].record()
    for event in events[1:]:
        function()
        event.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) for a, b in zip(events, events[1:])]


def matrix_product_tflops():
    """What PyTorch's product of two matrices reaches."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.float16) for _ in range(2))
    time_calls(lambda: a @ b, 5)
    return 2 * 8192 ** 3 / (statistics.median(time_calls(lambda: a @ b, 30)) * 1e9)


def parser_of_configurations(description):
    """The arguments that a laboratory of configurations takes in any case."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+")
    parser.add_argument("--checks", choices=["none", "quick", "full"], default="quick")
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--lengths", default="512,1024,2048,4096,8192,16384")
    parser.add_argument("--masks", default="full,causal")
    parser.add_argument("--dtype", choices=["float16", "bfloat16"], default="float16")
    parser.add_argument("--out", default="lab-build")
    return parser


def built(variants, are_there, started):
    """Those of the configurations that can be built; are_there: an earlier run has."""
    errors = [None] * len(variants)
    if not are_there:
        with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            errors = list(pool.map(lambda v: v.build(), variants))
    for error in filter(None, errors):
        print(error)
    variants = [v for v, e in zip(variants, errors) if e is None]
    print(f"built {len(variants)} in {time.time() - started:.0f} s: " + "; ".join(f"{v.name} {v.notes}" for v in variants), flush=True)
    return variants


def load_and_check(variants, check, checks, started):
    """True if nothing fails; the name of what does then ends in "!". check(variant, full) prints what fails; checks: none, quick, full."""
    sound = True
    for variant in variants:
        variant.load()
        if checks != "none" and not check(variant, full=checks == "full"):
            variant.name += "!"
            sound = False
    print(f"checked at {time.time() - started:.0f} s", flush=True)
    return sound


def print_rows(rows, title, state_title="clock/power", missing=9 * " "):
    """rows: (head_dim, causal, length, {name: TFLOP/s}, state). missing: in place of what was not measured."""
    for head_dim in sorted({r[0] for r in rows}):
        mine = [r for r in rows if r[0] == head_dim]
        names = list(dict.fromkeys(n for r in mine for n in r[3]))
        print(f"{title} d={head_dim}, TFLOP/s")
        print("mask    len   " + " ".join(f"{n:>9}" for n in names) + "   " + state_title)
        for _, causal, length, cells, state in mine:
            print(f"{'causal' if causal else 'full':6} {length:6d} " + " ".join(f"{cells[n]:9.0f}" if n in cells else missing for n in names) + "   " + state)
