#!/usr/bin/env python3
"""Laboratory of the Hopper forward kernel: builds several configurations side by side, checks each against a float64 reference, times them with the peers
that PyTorch brings, and prints one table. Needs nvcc, an sm_90 GPU and PyTorch.

usage: lab.py [--checks none|quick|full] [--peers] [--lengths 512,1024,…] [--out DIR] CONFIG …

CONFIG is name=head_dim,warpgroups,tile_kv,stages,overlap_tiles,softmax,ping_pong[,key:value …] with 0/1 for flags and softmax o (optimistic) or l (lazy). Keys:
teams; second_q:1 (two q tiles without overlap_tiles); ascending:1 (key tiles from the first on); order (of a causal problem's tiles: 1 pairs, 2 sections, 3
adjacent tiles; default sections); d (head_dim of the problem, default the tile's); bf16:1 (bfloat16 beside the others' type); longest (skip longer problems);
root (a folder with another version of native/, to compare with).
A configuration that fails a check is timed all the same; its name then ends in "!".
"""
import ctypes
import os
import statistics
import sys
import time

import torch

import cases
import gpu_state
from common import HERE, ROOT, Configuration, built, load_and_check, matrix_product_tflops, parser_of_configurations, print_rows, strides, time_calls


class LabCall(ctypes.Structure):
    """Mirrors LabCall of sm90_forward_variant.cu."""

    _fields_ = (
        [(n, ctypes.c_void_p) for n in ("q", "k", "v", "o", "lse")]
        + [(n, ctypes.c_int64) for n in ("batch", "len_q", "len_kv", "heads_q", "heads_kv", "head_dim", "head_dim_v")]
        + [(n, ctypes.c_int64 * 3) for n in ("q_strides", "k_strides", "v_strides", "o_strides")]
        + [("scale", ctypes.c_float), ("mask", ctypes.c_int32), ("is_bfloat16", ctypes.c_int32), ("multiprocessors", ctypes.c_int64),
           ("order", ctypes.c_int32)]
    )


class Variant(Configuration):
    def __init__(self, spec, build_dir):
        name, values = spec.split("=")
        v = [x for x in values.split(",") if ":" not in x]
        options = dict(x.split(":") for x in values.split(",") if ":" in x)
        self.head_dim, self.warpgroups, self.tile_kv, self.stages = (int(x) for x in v[:4])
        flag = {"0": "false", "1": "true"}
        softmax = {"o": "kOptimisticMaximum", "l": "kLazyRescale"}[v[5]]
        self.teams, self.order = int(options.get("teams", 1)), int(options.get("order", -1))
        self.problem_dim, self.longest = int(options.get("d", self.head_dim)), int(options.get("longest", 1 << 30))
        self.dtype = torch.bfloat16 if "bf16" in options else None
        tile = (f"{{{self.head_dim}, {self.warpgroups}, {self.tile_kv}, {self.stages}, {flag[v[4]]}, fa::Sm90Softmax::{softmax}, {flag[v[6]]}, {self.teams}, "
                f"INT64_MAX, 0, 0, 0, false, false, {flag[options.get('second_q', '0')]}, 0, false, false, false, {flag[options.get('ascending', '0')]}}}")
        native = options.get("root", os.path.join(ROOT, "native"))
        parts = ("tensor_map.cu", "forward/make_params.cu", "../../plan/variants.cpp")
        super().__init__(name, tile, native, os.path.join(HERE, "sm90_forward_variant.cu"), parts, build_dir)

    def call(self, q, k, v, o, lse, mask, scale):
        """Tensors are (batch, len, heads, head_dim) views."""
        return LabCall(q.data_ptr(), k.data_ptr(), v.data_ptr(), o.data_ptr(), lse.data_ptr() if lse is not None else None, q.shape[0], q.shape[1], k.shape[1],
                       q.shape[2], k.shape[2], q.shape[3], v.shape[3], strides(q), strides(k), strides(v), strides(o), scale, mask,
                       int(q.dtype == torch.bfloat16), torch.cuda.get_device_properties(0).multi_processor_count, self.order)

    def run(self, *args):
        self.launch(self.call(*args))

    def time(self, repeats, *args):
        return super().time(repeats, self.call(*args))


def peer_times(name, q, k, v, causal, repeats):
    """FlashAttention-2 or cuDNN through PyTorch, on the same tensors."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    backend = {"FA2": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}[name]
    heads_first = [t.transpose(1, 2) for t in (q, k, v)]
    call = lambda: torch.nn.functional.scaled_dot_product_attention(*heads_first, is_causal=causal, enable_gqa=q.shape[2] != k.shape[2])
    with sdpa_kernel(backend):
        time_calls(call, 3)
        return time_calls(call, repeats)


def make_inputs(batch, length, heads, group, head_dim, dtype, growth, gain=1.0):
    """Random normal q, k, v; with growth, logits that grow by so much from one group of 128 keys to the next, in the order in which the kernel takes them:
    every tile takes the slow path."""
    make = lambda h: torch.randn(batch, length, h, head_dim, device="cuda", dtype=torch.float32).to(dtype)
    q, k, v = make(heads), make(heads // group), make(heads // group)
    q *= gain
    if growth:
        tiles = torch.arange(length - 1, -1, -1, device="cuda") // 128
        q[..., 0] = 16.0 if growth < 1000 else 1024.0  # k is to stay within fp16
        k[..., 0] = (growth * head_dim ** 0.5 / q[0, 0, 0, 0].float() * tiles).to(dtype)[None, :, None]
    return q, k, v


def measure(variants, lengths, peers, masks, dtype, group, growth, gain):
    rows = []
    for head_dim in sorted({v.problem_dim for v in variants}):
        for causal in masks:
            for length in lengths:
                batch, heads = max(1, 16384 // length), 2048 // head_dim
                q, k, v = make_inputs(batch, length, heads, group, head_dim, dtype, growth, gain)
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


def main():
    parser = parser_of_configurations(__doc__)
    parser.add_argument("--group", type=int, default=1, help="query heads per key head")
    parser.add_argument("--growth", default="0", help="growth of the logits from key tile to key tile; several with commas: a table for each")
    parser.add_argument("--gain", type=float, default=1.0, help="standard deviation of the logits")
    parser.add_argument("--prebuilt", action="store_true", help="take the shared objects that lie in the folder of --out")
    options = parser.parse_args()

    started = time.time()
    variants = built([Variant(spec, options.out) for spec in options.configs], options.prebuilt, started)
    sound = load_and_check(variants, cases.check, options.checks, started)
    lengths = [int(x) for x in options.lengths.split(",") if x]
    if lengths:
        for growth in map(float, options.growth.split(",")):
            rows = measure(variants, lengths, ["FA2", "cuDNN"] if options.peers else [], [m == "causal" for m in options.masks.split(",")],
                           getattr(torch, options.dtype), options.group, growth, options.gain)
            print_rows(rows, f"{options.dtype}, {options.group} query heads per key head, logits of {options.gain:g}, growing by {growth:g},")
        product = matrix_product_tflops()
        print(f"8192^3 matrix product right afterwards: {product:.0f} TFLOP/s; {gpu_state.now()}; {time.time() - started:.0f} s in all")
    return 0 if sound and len(variants) == len(options.configs) else 1


if __name__ == "__main__":
    sys.exit(main())
