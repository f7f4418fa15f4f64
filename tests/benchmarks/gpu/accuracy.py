#!/usr/bin/env python3
"""Errors of our kernels, FlashAttention-2 and cuDNN (both through PyTorch) against float64 on the same inputs: o and the three gradients.

usage: FLASH_ATTENTION_LIBRARY=…/libflash_attention.so python3 accuracy.py [--json FILE] [--dims 64,128,256] [--dtypes float16,bfloat16] [--seeds 3]
           [--gain 1] [--kernel auto] [--limit SECONDS] [--worst RATIO]

Inputs are random normal, --gain multiplies q (8: most rows have one key that outweighs the rest). Each implementation computes its gradients from its own o and
log-sum-exp. Per case, over all seeds: the root mean square of the error, and the largest, in units of 1e-5; ratios are ours over the better peer's. Noise: how
far the ratio of one seed lies from that of all, at most. Ends with 1 where a ratio of root mean squares is above --worst.

Each type and head_dim is a process, since what takes long is that cuDNN compiles each case; every case is measured with one seed before any is with the next.
What is measured is printed at once, and at the --limit the summary is of what there is.
"""
import argparse
import math
import multiprocessing
import queue
import sys
import time

import torch

import peers

SHAPES = ((4, 512, 8), (2, 1024, 8), (1, 4096, 4))  # batch, length, heads
RESULTS = ("o", "grad_q", "grad_k", "grad_v")
PEERS = {"FA2": "fa2", "cuDNN": "cudnn"}


def exact(q, k, v, grad_o, causal):
    """The results in float64, unfused, of one batch entry: (length, heads, head_dim) all."""
    q, k, v, grad_o = (t.double().transpose(0, 1) for t in (q, k, v, grad_o))
    scale, length = q.shape[2] ** -0.5, q.shape[1]
    scores = q @ k.transpose(1, 2) * scale
    if causal:
        scores.masked_fill_(torch.ones(length, length, dtype=torch.bool, device="cuda").triu(1), -math.inf)
    p = torch.softmax(scores, 2)
    del scores
    o = p @ v
    grad_v = p.transpose(1, 2) @ grad_o
    ds = grad_o @ v.transpose(1, 2)
    ds.sub_((grad_o * o).sum(2, keepdim=True)).mul_(p)
    return [t.transpose(0, 1) for t in (o, ds @ k * scale, ds.transpose(1, 2) @ q * scale, grad_v)]


def results_of(case, kernel, name):
    """An implementation's (batch, length, heads, head_dim) results."""
    if name == "ours":
        case.ours(kernel, "backward")()
        return [case.o, case.grad_q, case.grad_k, case.grad_v]
    method = getattr(case, PEERS[name])
    out, gradients = method("forward")()[0], method("backward")()
    return [t.transpose(1, 2) for t in (out, *gradients[:3])]


def errors_of(case, wants, tensors):
    """{result: (mean square, largest)} of one implementation. wants: of each batch entry."""
    errors = {}
    for place, result in enumerate(RESULTS):
        differences = [tensors[place][b].double() - wants[b][place] for b in range(case.batch)]
        errors[result] = (sum(float(d.square().mean()) for d in differences) / case.batch, max(float(d.abs().max()) for d in differences))
    return errors


def measure_head_dim(dtype, dim, kernel, gain, num_seeds, results):
    """Puts (case, seed, implementation, its errors or why there are none) into the queue. Runs in a process of its own."""
    library = peers.Library()
    for seed in range(num_seeds):
        for index, (causal, (batch, length, heads)) in enumerate((c, s) for c in (False, True) for s in SHAPES):
            torch.manual_seed(1000 * seed + index)
            case = peers.Case(library, dim, length, causal, getattr(torch, dtype), batch, heads)
            case.q *= gain
            wants = [exact(case.q[b], case.k[b], case.v[b], case.grad_o[b], causal) for b in range(batch)]
            for name in ("ours", *PEERS):
                try:
                    errors = errors_of(case, wants, results_of(case, kernel, name))
                except RuntimeError as error:
                    errors = str(error).splitlines()[0][:120]
                results.put(((dtype, dim, causal, length), seed, name, errors))
            del wants


def case_text(key):
    return f"{key[0]:8} d{key[1]:<3} {'causal' if key[2] else 'full  '} {key[3]:4}"


def text_of(errors):
    return ", ".join(f"{result} {math.sqrt(square) * 1e5:.2f} {largest * 1e5:.0f}" for result, (square, largest) in errors.items())


def measure(a):
    """{case: [errors by implementation of each seed]}, and whether all that ours has is finite. Ends at the limit."""
    context, begin, sound = multiprocessing.get_context("spawn"), time.monotonic(), True
    found, refused, results = {}, set(), context.Queue()
    parts = [(dtype, dim) for dtype in a.dtypes.split(",") for dim in map(int, a.dims.split(","))]
    processes = [context.Process(target=measure_head_dim, args=(*part, a.kernel, a.gain, a.seeds, results), daemon=True) for part in parts]
    for process in processes:
        process.start()
    left = len(parts) * 2 * len(SHAPES) * a.seeds * (1 + len(PEERS))
    while left and not (a.limit and time.monotonic() - begin > a.limit):
        try:
            key, seed, name, errors = results.get(timeout=0.5)
        except queue.Empty:
            if all(not process.is_alive() for process in processes):
                break
            continue
        left -= 1
        missing = isinstance(errors, str)
        if seed == 0 or missing:
            print(f"{time.monotonic() - begin:3.0f} s  {case_text(key)} {name:5} {errors if missing else text_of(errors)}", flush=True)
        if missing or not all(math.isfinite(x) for pair in errors.values() for x in pair):
            sound = sound and name != "ours"
            refused.add((key, name))
            continue
        found.setdefault(key, {}).setdefault(seed, {})[name] = errors
    for process in processes:
        process.terminate()
    sound = sound and (bool(a.limit) or all(process.exitcode in (None, 0, -15) for process in processes))
    print(f"{left} of the measurements missing after {time.monotonic() - begin:.0f} s" if left else "all measured")
    whole = {key: {name for name in ("ours", *PEERS) if (key, name) not in refused} for key in found}
    return {key: [errors for errors in seeds.values() if set(errors) == whole[key] and len(errors) > 1] for key, seeds in found.items()}, sound


def over_peers(errors, result):
    """Ours over the better peer's (root mean square, largest error); None where no peer computes the case."""
    others = [errors[name][result] for name in PEERS if name in errors]
    ours = errors["ours"][result]
    return (math.sqrt(ours[0] / min(e[0] for e in others)), ours[1] / min(e[1] for e in others)) if others else None


def together(seeds):
    """The errors of several seeds as one."""
    return {name: {r: (sum(s[name][r][0] for s in seeds) / len(seeds), max(s[name][r][1] for s in seeds)) for r in RESULTS} for name in seeds[0]}


def print_cases(found):
    names = ("ours", *PEERS)
    print(f"root mean square, largest error of {'/'.join(names)} in 1e-5")
    for key, seeds in found.items():
        errors = together(seeds)
        print(case_text(key), end="")
        for result in RESULTS:
            rms, largest = ("/".join(form(errors[n][result]) if n in errors else "-" for n in names)
                            for form in (lambda e: f"{math.sqrt(e[0]) * 1e5:.2f}", lambda e: f"{e[1] * 1e5:.0f}"))
            print(f"  {result} {rms}, {largest}", end="")
        print()


def summaries(found):
    """{(type, pass): {"rms": (geometric mean, worst, its case, noise), "largest": …}}."""
    summary = {}
    for dtype in dict.fromkeys(key[0] for key in found):
        for what, results in (("forward", RESULTS[:1]), ("backward", RESULTS[1:])):
            for place, measure_name in enumerate(("rms", "largest")):
                ratios, noise = {}, 0.0
                for key, seeds in ((k, s) for k, s in found.items() if k[0] == dtype):
                    for result in results:
                        whole = over_peers(together(seeds), result)
                        if whole is None:
                            continue
                        ratios[f"{result} d{key[1]} {'causal' if key[2] else 'full'} {key[3]}"] = whole[place]
                        noise = max([noise] + [abs(over_peers(seed, result)[place] / whole[place] - 1) for seed in seeds])
                if ratios:
                    worst = max(ratios, key=ratios.get)
                    summary.setdefault((dtype, what), {})[measure_name] = (peers.geometric_mean(list(ratios.values())), ratios[worst], worst, noise)
    return summary


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json")
    parser.add_argument("--dims", default="64,128,256")
    parser.add_argument("--dtypes", default="float16,bfloat16")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--gain", type=float, default=1.0)
    parser.add_argument("--kernel", default="auto")
    parser.add_argument("--limit", type=float)
    parser.add_argument("--worst", type=float)
    a = parser.parse_args()
    found, sound = measure(a)
    found = {key: seeds for key, seeds in sorted(found.items()) if seeds}
    print_cases(found)
    summary = summaries(found)
    for (dtype, what), values in summary.items():
        for name, (mean, worst, where, noise) in values.items():
            print(f"{what} {dtype}, {name} over the better peer's: geometric mean {mean:.3f}, worst {worst:.3f} ({where}), noise {noise:.3f}")
    if a.json:
        flat = [{"dtype": k[0], "head_dim": k[1], "causal": k[2], "length": k[3], "seeds": len(s), "implementation": name,
                 **{r: {"rms": math.sqrt(e[0]), "largest": e[1]} for r, e in results.items()}}
                for k, s in found.items() for name, results in together(s).items()]
        peers.write_json(a.json, {"device": peers.device_facts(peers.Library(), peers.state()), "gain": a.gain, "measurements": flat})
    rms = [values["rms"] for values in summary.values()]
    means, worst = [value[0] for value in rms], max((value[1] for value in rms), default=math.nan)
    print(f"root mean square over the better peer's: geometric mean {peers.geometric_mean(means):.3f}, worst {worst:.3f}")
    return 1 if not sound or not found or (a.worst is not None and not worst <= a.worst) else 0


if __name__ == "__main__":
    sys.exit(main())
