#!/usr/bin/env python3
"""Laboratory of the Hopper backward kernel: builds several configurations side by side, checks each against a float64 reference, times them with the peers
that PyTorch brings, and prints one table. Needs nvcc, an sm_90 GPU and PyTorch.

usage: lab_backward.py [--checks none|quick|full] [--peers] [--lengths 512,1024,…] [--masks full,causal] [--seconds N] [--out DIR] CONFIG …

CONFIG is name=head_dim,tile_q,… with the fields of Sm90BackwardTile in their order, 0 and 1 for truth values, and optionally @folder with another version of
the tree, to compare two versions in one run. A configuration that fails a check is timed all the same; its name then ends in "!". Times are of all passes; a
column gives the share of those around the main kernel.
"""
import ctypes
import math
import os
import statistics
import sys
import time

import torch

import cases_backward as cases
import gpu_state
from common import ROOT, Configuration, built, load_and_check, matrix_product_tflops, parser_of_configurations, print_rows, strides, time_calls

TENSORS = ("q", "k", "v", "o", "grad_o", "grad_q", "grad_k", "grad_v")


class LabCall(ctypes.Structure):
    """Mirrors LabCall of sm90_backward_variant.cu."""

    _fields_ = (
        [(n, ctypes.c_void_p) for n in TENSORS + ("lse", "grad_lse", "workspace")]
        + [(n, ctypes.c_int64) for n in ("batch", "len_q", "len_kv", "heads_q", "heads_kv", "head_dim", "head_dim_v")]
        + [(n + "_strides", ctypes.c_int64 * 3) for n in TENSORS]
        + [("scale", ctypes.c_float), ("mask", ctypes.c_int32), ("is_bfloat16", ctypes.c_int32), ("passes", ctypes.c_int32)]
        + [("stream", ctypes.c_void_p)]
    )


class Variant(Configuration):
    def __init__(self, spec, build_dir):
        name, values = spec.split("=")
        values, _, folder = values.partition("@")
        v = values.split(",")
        self.head_dim, self.tile_q = int(v[0]), int(v[1])
        self.deterministic = v[2] == "1"
        flags = [{"0": "false", "1": "true"}.get(x, x) for x in v[2:]]
        root = os.path.abspath(folder) if folder else ROOT
        parts = ["tensor_map.cu"] + [f"backward/{part}.cu" for part in ("make_params", "passes", "repair", "run_backward")]
        super().__init__(name, "{" + ", ".join(v[:2] + flags) + "}", os.path.join(root, "native"),
                         os.path.join(root, "tests/benchmarks/lab/sm90_backward_variant.cu"), parts, build_dir)

    def load(self):
        super().load()
        self.library.lab_workspace_bytes.restype = ctypes.c_int64

    def call(self, tensors, lse, grad_lse, mask, scale, passes=7):
        """tensors: those named in TENSORS, (batch, len, heads, head_dim) views. The workspace is kept alive with the call and starts as NaN."""
        call = LabCall()
        for name in TENSORS:
            t = tensors[name]
            setattr(call, name, t.data_ptr())
            setattr(call, name + "_strides", strides(t))
        q, k, v = tensors["q"], tensors["k"], tensors["v"]
        call.lse, call.grad_lse = lse.data_ptr(), grad_lse.data_ptr() if grad_lse is not None else None
        call.batch, call.len_q, call.heads_q, call.head_dim = q.shape
        call.len_kv, call.heads_kv, call.head_dim_v = k.shape[1], k.shape[2], v.shape[3]
        call.scale, call.mask, call.is_bfloat16, call.passes = scale, mask, int(q.dtype == torch.bfloat16), passes
        floats = self.library.lab_workspace_bytes(ctypes.byref(call)) // 4
        call.keep = torch.full((floats + 4,), float("nan"), device="cuda")
        call.workspace = call.keep.data_ptr()
        return call

    def run(self, *args):
        self.launch(self.call(*args))
        torch.cuda.synchronize()


def peer_calls(q, k, v, grad_o, causal):
    """FlashAttention-2 and cuDNN through PyTorch: the backward pass alone, on the same tensors; also FA2's o and log-sum-exp."""
    q, k, v, g = (t.transpose(1, 2) for t in (q, k, v, grad_o))
    aten = torch.ops.aten
    o2, lse2, cq2, ck2, mq2, mk2, seed2, off2, _ = aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, False)
    calls = {"FA2": lambda: aten._scaled_dot_product_flash_attention_backward(g, q, k, v, o2, lse2, cq2, ck2, mq2, mk2, 0.0, causal, seed2, off2)}
    try:
        o3, lse3, cq3, ck3, mq3, mk3, seed3, off3, _ = aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, causal, False)
        calls["cuDNN"] = lambda: aten._scaled_dot_product_cudnn_attention_backward(g, q, k, v, o3, lse3, seed3, off3, None, cq3, ck3, mq3, mk3, 0.0, causal)
        calls["cuDNN"]()
    except RuntimeError as error:
        print("cuDNN:", str(error).splitlines()[0][:120])
        calls.pop("cuDNN", None)
    return calls, o2.transpose(1, 2), lse2


def measure(variants, lengths, peers, masks, dtype, deadline):
    rows = []
    for head_dim in sorted({v.head_dim for v in variants}):
        mine = [x for x in variants if x.head_dim == head_dim]
        for causal in masks:
            for length in lengths:
                if time.time() > deadline:
                    print("out of time: cells left out")
                    return rows
                batch, heads = max(1, 16384 // length), 2048 // head_dim
                tensors = {n: torch.randn(batch, length, heads, head_dim, device="cuda", dtype=torch.float32).to(dtype) for n in ("q", "k", "v", "grad_o")}
                calls, tensors["o"], lse = peer_calls(tensors["q"], tensors["k"], tensors["v"], tensors["grad_o"], causal)
                tensors.update({n: torch.empty_like(tensors["q"]) for n in ("grad_q", "grad_k", "grad_v")})
                lse = lse.view(batch, heads, length).contiguous()
                flops = 10.0 * batch * heads * length * length * head_dim * (0.5 if causal else 1.0)
                repeats = max(3, min(30, int(0.012 / (flops / 5e14))))
                mask = 1 if causal else 0
                ours = {x.name: x.call(tensors, lse, None, mask, head_dim ** -0.5) for x in mine}
                cells, state = {}, gpu_state.Sampler()
                want = [t.transpose(1, 2) for t in calls["FA2"]()]
                # In turns that begin with another variant each, so that a warming GPU treats all alike.
                for turn in range(4):
                    first = turn * max(1, len(mine) // 4) % len(mine)
                    for variant in mine[first:] + mine[:first]:
                        variant.time(1, ours[variant.name])
                        with state:
                            cells.setdefault(variant.name, []).extend(variant.time(repeats, ours[variant.name]))
                        got = [tensors[n] for n in ("grad_q", "grad_k", "grad_v")]
                        worst = max(float((a.float() - b.float()).norm() / b.float().norm()) for a, b in zip(got, want))
                        if not worst < (0.01 if dtype == torch.float16 else 0.03):
                            print(f"  {variant.name} d{head_dim} causal={causal} S={length}: differs from FA2 by {worst:.2e}")
                    for name in peers:
                        if name in calls:
                            cells.setdefault(name, []).extend(time_calls(calls[name], repeats))
                ours[mine[0].name].passes = 5
                passes_ms = statistics.median(mine[0].time(repeats, ours[mine[0].name]))
                medians = {name: statistics.median(times) for name, times in cells.items()}
                share = passes_ms / medians[mine[0].name]
                rows.append((head_dim, causal, length, {n: flops / (ms * 1e9) for n, ms in medians.items()}, f"{100 * share:4.1f}% {state.text()}"))
    return rows


def main():
    parser = parser_of_configurations(__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="begin no further cell after so long")
    parser.add_argument("--build-only", action="store_true")
    parser.add_argument("--built", action="store_true", help="an earlier run with the same --out has built them")
    options = parser.parse_args()

    started = time.time()
    variants = built([Variant(spec, options.out) for spec in options.configs], options.built, started)
    if options.build_only:
        return 0
    sound = load_and_check(variants, cases.check, options.checks, started)
    lengths = [int(x) for x in options.lengths.split(",") if x]
    if lengths and variants:
        rows = measure(variants, lengths, ["FA2", "cuDNN"] if options.peers else [], [m == "causal" for m in options.masks.split(",")],
                       getattr(torch, options.dtype), started + options.seconds)
        product = matrix_product_tflops()
        print_rows(rows, f"{options.dtype},", "pre+post, clock/power", f"{math.nan:9.0f}")
        print(f"8192^3 matrix product right afterwards: {product:.0f} TFLOP/s; {gpu_state.now()}; {time.time() - started:.0f} s in all")
    return 0 if sound and len(variants) == len(options.configs) else 1


if __name__ == "__main__":
    sys.exit(main())
