#!/usr/bin/env python3
"""Laboratory of the Hopper backward kernels with modified scores: checks against attention written out in float64, times.

usage: lab_modified.py [--checks none|tiny|quick|full] [--times] NAME=LIBRARY …

LIBRARY: sm90_backward_modified.cu as a shared object, with the sources of kernels/sm90/backward_modified and what they call.
"""
import argparse
import ctypes
import itertools
import math
import statistics
import sys
import time

import torch

import gpu_state
from cases_modified import check, check_tiny, packed, positions, visible
from common import Loaded, strides

TENSORS = ("q", "k", "v", "o", "grad_o", "grad_q", "grad_k", "grad_v")
MASKS = {"none": 0, "causal_tl": 1, "causal_br": 2, "window_tl": 3, "window_br": 4}


class LabCall(ctypes.Structure):
    """Mirrors LabCall of sm90_backward_modified.cu."""

    _fields_ = (
        [(n, ctypes.c_void_p) for n in TENSORS + ("lse", "grad_lse", "grad_sinks", "workspace")]
        + [(n, ctypes.c_int64) for n in ("batch", "len_q", "len_kv", "heads_q", "heads_kv", "head_dim", "head_dim_v")]
        + [("strides", ctypes.c_int64 * 3 * 8)]
        + [(n, ctypes.c_int64) for n in ("window_left", "window_right", "chunk", "alibi_batch_stride", "count", "max_len_q", "max_len_kv")]
        + [(n, ctypes.c_void_p) for n in ("alibi_slopes", "sinks", "cu_seqlens_q", "cu_seqlens_kv", "seqused_q", "seqused_kv")]
        + [(n, ctypes.c_float) for n in ("scale", "softcap")]
        + [(n, ctypes.c_int32) for n in ("mask", "is_bfloat16", "left_padded", "passes")]
    )


class Library(Loaded):
    def __init__(self, path):
        self.load(path)
        self.library.lab_workspace_bytes.restype = ctypes.c_int64

    def call(self, t, lse, options, grad_lse=None, passes=7):
        """t: tensors named in TENSORS, (batch, len, heads, head_dim) views. options: dict of a case. The workspace starts as NaN."""
        c = LabCall()
        for i, name in enumerate(TENSORS):
            setattr(c, name, t[name].data_ptr())
            c.strides[i] = strides(t[name])
        c.lse, c.grad_lse = lse.data_ptr(), grad_lse.data_ptr() if grad_lse is not None else None
        c.batch, c.len_q, c.heads_q, c.head_dim = t["q"].shape
        c.len_kv, c.heads_kv, c.head_dim_v = t["k"].shape[1], t["k"].shape[2], t["v"].shape[3]
        c.scale, c.mask, c.is_bfloat16, c.passes = options["scale"], MASKS[options["mask"]], int(t["q"].dtype == torch.bfloat16), passes
        c.window_left, c.window_right = options.get("window", (0, 0))
        c.chunk, c.softcap = options.get("chunk", 0), options.get("softcap", 0.0)
        if "slopes" in options:
            c.alibi_slopes, c.alibi_batch_stride = options["slopes"].data_ptr(), options["slopes"].stride(0) if options["slopes"].dim() == 2 else 0
        if "sinks" in options:
            c.sinks, c.grad_sinks = options["sinks"].data_ptr(), options["grad_sinks"].data_ptr()
        if "sequences" in options:
            s = options["sequences"]
            c.count, c.max_len_q, c.max_len_kv, c.left_padded = s["count"], s.get("max_len_q", 0), s.get("max_len_kv", 0), s.get("left_padded", 0)
            for n in ("cu_seqlens_q", "cu_seqlens_kv", "seqused_q", "seqused_kv"):
                setattr(c, n, s[n].data_ptr() if n in s else None)
        size = self.library.lab_workspace_bytes(ctypes.byref(c))
        self.check(int(size < 0))
        c.keep = torch.full((size // 4 + 64,), float("nan"), device="cuda")
        c.workspace = c.keep.data_ptr()
        return c

    def median_time(self, repeats, call):
        return statistics.median(self.time(repeats, call))


def attention_state(t, options, scale):
    """o and lse of long sequences, head by head in fp32: good enough to time with."""
    batch, len_q, heads, _ = t["q"].shape
    group = heads // t["k"].shape[2]
    o, lse = torch.empty_like(t["grad_o"]), torch.empty(batch, heads, len_q, device="cuda")
    seen = visible(len_q, t["k"].shape[1], options)
    keys = torch.arange(t["k"].shape[1], device="cuda")
    distance = (positions(len_q, len(keys), options["mask"])[:, None] - keys[None]).abs().float() if "slopes" in options else None
    for b, h in itertools.product(range(batch), range(heads)):
        s = (t["q"][b, :, h] @ t["k"][b, :, h // group].T).float() * scale
        if options.get("softcap", 0):
            s = options["softcap"] * torch.tanh(s / options["softcap"])
        if distance is not None:
            s -= options["slopes"][h] * distance
        s.masked_fill_(~seen, -math.inf)
        lse[b, h] = torch.logsumexp(s, -1)
        o[b, :, h] = torch.softmax(s, -1).to(o.dtype) @ t["v"][b, :, h // group]
    return o, lse, int(seen.sum())


def times(libraries, seconds):
    print("TFLOP/s of visible pairs (10 flops per pair and column), B2 H16 S8192 fp16, in turns; behind: milliseconds of prepare, finish and repair")
    print(f"{'':28}" + " ".join(f"{n:>10}" for n in libraries))
    names = {
        "window 1024 causal": {"mask": "window_br", "window": (1023, 0)},
        "ALiBi causal": {"mask": "causal_br", "slopes": 1},
        "causal": {"mask": "causal_br"},
        "softcap 30 causal": {"mask": "causal_br", "softcap": 30.0},
        "full": {"mask": "none"},
        "sinks causal": {"mask": "causal_br", "sinks": 1},
        "chunk 1024 causal": {"mask": "causal_br", "chunk": 1024},
        "window 1024 both": {"mask": "window_br", "window": (512, 512)},
        "ALiBi full": {"mask": "none", "slopes": 1},
    }
    started = time.time()
    for dim, (name, options) in itertools.product((128, 64), names.items()):
        if time.time() - started > seconds:
            print("out of time: cells left out")
            return False
        heads = 2048 // dim
        options = {"scale": dim ** -0.5} | options
        t = {n: torch.randn(2, 8192, heads, dim, device="cuda", dtype=torch.float16) for n in ("q", "k", "v", "grad_o")}
        if "slopes" in options:
            options["slopes"] = 2.0 ** (-8.0 * torch.arange(1, heads + 1, device="cuda") / heads)
        o, lse, pairs = attention_state(t, options, options["scale"])
        if "sinks" in options:
            options |= {"sinks": torch.randn(heads, device="cuda"), "grad_sinks": torch.empty(heads, device="cuda")}
        t |= {"o": o} | {n: torch.empty_like(t["q"]) for n in ("grad_q", "grad_k", "grad_v")}
        columns, around = {}, []
        for _ in range(3):
            for n, library in libraries.items():
                if n == "plain" and (dim != 128 or len(options) > 2):
                    continue
                call = library.call(t, lse, options, passes={"plain": 15, "outside": 23}.get(n, 7))
                library.median_time(1, call)
                columns.setdefault(n, []).append(library.median_time(6, call))
        for passes in (1, 4):
            call = library.call(t, lse, options)
            library.launch(call)
            call.passes = passes
            around.append(library.median_time(5, call))
        flops = 10.0 * 2 * heads * pairs * dim
        cells = " ".join(f"{flops / (statistics.median(columns[n]) * 1e9):10.0f}" if n in columns else 10 * " " for n in libraries)
        print(f"d={dim:3} {name:22} {cells}   {around[0]:.3f} {around[1]:.3f}  {gpu_state.now()}", flush=True)
    return True


def heavy_tail(total, mean, longest, generator):
    """Lengths of a log-normal distribution that add up to total."""
    lengths = []
    while sum(lengths) < total:
        n = int(min(longest, max(1, math.exp(float(torch.randn((), generator=generator)) * 1.2 + math.log(mean) - 0.72))))
        lengths.append(min(n, total - sum(lengths)))
    return lengths


def sequence_times(library):
    dim, heads = 128, 16
    g = torch.Generator().manual_seed(11)
    lengths = heavy_tail(65536, 1024, 16384, g)
    print(f"{len(lengths)} packed sequences, longest {max(lengths)}, mean {sum(lengths) / len(lengths):.0f}, d=128, 16 heads")
    for mask in ("none", "causal_br"):
        options = {"scale": dim ** -0.5, "mask": mask}
        t = {n: torch.randn(1, 65536, heads, dim, device="cuda", dtype=torch.float16) for n in ("q", "k", "v", "grad_o")}
        s, extents = packed(lengths, lengths)
        o, lse, pairs = torch.empty_like(t["q"]), torch.empty(1, heads, 65536, device="cuda"), 0
        for _, begin, length, _, _ in extents:
            part = {n: x[:, begin:begin + length] for n, x in t.items()}
            o[:, begin:begin + length], lse[:, :, begin:begin + length], seen = attention_state(part, options, options["scale"])
            pairs += seen
        t |= {"o": o} | {n: torch.empty_like(t["q"]) for n in ("grad_q", "grad_k", "grad_v")}
        call = library.call(t, lse, options | {"sequences": s})
        library.launch(call)
        library.median_time(2, call)
        ms = library.median_time(10, call)
        print(f"packed {mask:10} {10.0 * heads * pairs * dim / (ms * 1e9):6.0f} TFLOP/s  {ms:.3f} ms; mean pairs per query {pairs / 65536:.0f}", flush=True)
        # Dense of the same pairs per query: batch entries of equal length.
        length = max(128, int(pairs / 65536 * (2 if mask != "none" else 1)) // 128 * 128)
        batch = 65536 // length
        d = {n: x[:, :batch * length].view(batch, length, heads, dim) for n, x in t.items()}
        o, dense_lse, seen = attention_state(d, options, options["scale"])
        d["o"] = o
        call = library.call(d, dense_lse, options)
        library.launch(call)
        library.median_time(2, call)
        ms = library.median_time(10, call)
        print(f"dense  {mask:10} {10.0 * heads * batch * seen * dim / (ms * 1e9):6.0f} TFLOP/s  {ms:.3f} ms at {batch} x {length}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", nargs="+", help="NAME=FILE; the last is checked, all are timed; plain: the plain kernel, outside: --outside")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--checks", choices=["none", "tiny", "quick", "full"], default="quick")
    parser.add_argument("--times", action="store_true")
    parser.add_argument("--outside", action="store_true", help="checks with grad_q finished in a pass of its own")
    options = parser.parse_args()
    libraries = {text.partition("=")[0]: Library(text.partition("=")[2]) for text in options.library}
    library = list(libraries.values())[-1]
    sound = True
    if options.checks == "tiny":
        sound = check_tiny(library)
    elif options.checks != "none":
        sound = check(library, options.checks == "full", 23 if options.outside else 7)
    if options.times:
        if times(libraries, options.seconds):
            sequence_times(library)
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
