#!/usr/bin/env python3
"""Mask and score variants beside compiled FlexAttention, and what else PyTorch has, on the same tensors in one run; correctness first.

usage: FLASH_ATTENTION_LIBRARY=…/libflash_attention.so python3 variants.py [--only alibi,softcap,…] [--passes forward,backward] [--kernels auto,sm80]
           [--no-peers] [--no-times] [--json FILE] [--budget SECONDS_PER_CASE_AND_PASS] [--limit SECONDS]

Batch 2, 16 heads, length 8192, head_dim 128, fp16, unless a case says otherwise. A row's ratio is the fastest base's time per visible pair over its own; a case
meets its bar if one of ours does:
  causal                     no variant, for comparison
  alibi, softcap             causal with ALiBi slopes, causal with scores capped at 30; bar 1.5 x FlexAttention
  window                     a causal window of 1024 keys; bar 1.5 x FlexAttention
  document                   documents of 1024 keys on average that do not see each other; ours as packed sequences, as a boolean mask, and as a boolean mask
                             with its block mask; bar 1.5 x FlexAttention
  bias, bias_heads           an additive bias per batch and head, or per head, with its gradient; bar 1.3 x the fastest of FlexAttention, PyTorch's
                             memory-efficient and cuDNN attention where they give that gradient, and eager attention
  varlen, varlen_causal      65 packed sequences of 65536 positions in all, heavy tail, the longest 16384; bar 0.9 x a dense batch of as many pairs and
                             positions
  long_window                length 65536 with a causal window of 1024; bar 1 / 1.15 of full attention at 8192

Every case is a process of its own: they start together, compile and check at the same time, and then measure one after another, so that a case that fails or
hangs takes no other down. Ours is checked against float64 on two heads; a problem that the library refuses is shown as refused. Times are CUDA events around
one call, all implementations of a case in turn, the median. TFLOP/s count visible pairs: 4 pairs heads d forward, 2.5 times that backward.

--device cpu --divide 64 tries the checks with short sequences where there is no GPU.
"""
import argparse
import json
import os
import queue
import random
import subprocess
import sys
import tempfile
import threading
import time

import torch

import variant_cases as cases
from peers import device_facts, rounds_within, state, summary, write_json
from variant_peers import PEERS
from variant_report import BARS, add_ratios, print_table

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "gpu"))
from fa_ctypes import Library  # noqa: E402

GRADIENTS = ("grad_q", "grad_k", "grad_v", "grad_bias")
# Largest relative error: ours, and that of the peers, which round to fp16 in more places.
ALLOWED, ALLOWED_BIAS, ALLOWED_PEER = 5e-3, 1e-2, 5e-2


def entries_of(case, device, divide):
    """[(label, problem, implementation, role)]: a subject is judged by its ratio to the fastest base; context is shown beside them."""
    batch, length = 2, 8192 // divide
    size = max(16, 1024 // divide)
    flex = lambda problem: [("flex", problem, "flex", "base")]
    if case == "causal":
        problem = cases.causal("causal", batch, length)
        return [("causal", problem, "ours", "subject")] + flex(problem)
    if case in ("alibi", "softcap"):
        problem = getattr(cases, case)(batch, length, device)
        return [(case, problem, "ours", "subject")] + flex(problem)
    if case == "window":
        problem = cases.window(batch, length, device, size)
        return [("window", problem, "ours", "subject")] + flex(problem)
    if case == "document":
        problems = cases.documents(batch, length, device, mean=size, block=min(128, size))
        return [(("packed" if p.packed else p.name), p, "ours", "subject") for p in problems] + flex(problems[0])
    if case.startswith("bias"):
        problem = cases.biased(case, batch, length, device, batch if case == "bias" else 1)
        return [(case, problem, "ours", "subject")] + [(name, problem, name, "base") for name in ("flex", "efficient", "cudnn", "eager")]
    if case.startswith("varlen"):
        total, dense = 65536 // divide, cases.causal if case == "varlen_causal" else cases.full
        lengths = cases.heavy_tail_lengths(total, size, 16384 // divide, random.Random(23))
        problem = cases.packed(case, lengths, device, case == "varlen_causal")
        # A dense batch of the same number of positions and of pairs; and dense batches of the longest and the mean length, which say where it lies between.
        equal = max(1, round(sum(n * n for n in lengths) / total / 128)) * 128
        shapes = [(equal, "base"), (16384 // divide, "context"), (size, "context")]
        return [(case, problem, "ours", "subject")] + [(f"dense {n}", dense("dense", total // n, n), "ours", role) for n, role in shapes]
    if case == "long_window":
        windowed, whole = cases.window(1, 65536 // divide, device, size), cases.full("full", batch, length)
        return [(case, windowed, "ours", "subject"), (f"full {length}", whole, "ours", "base")]
    raise SystemExit(f"--only: expected some of {','.join(BARS)}, got '{case}'")


class Ours:
    """A problem through this library, results in fields."""

    def __init__(self, library, problem, inputs, kernel):
        self.library, self.problem, self.kernel = library, problem, kernel
        flat = (lambda t: t.view(1, -1, cases.HEADS, cases.DIM)) if problem.packed else (lambda t: t)
        self.q, self.k, self.v, self.grad_o = (flat(t) for t in inputs)
        self.o, self.grad_q, self.grad_k, self.grad_v = (torch.full_like(self.q, float("nan")) for _ in range(4))
        self.grad_bias = None if problem.bias is None else torch.full_like(problem.bias, float("nan"))
        self.lse = torch.full((self.q.shape[0], cases.HEADS, self.q.shape[1]), float("nan"), device=self.q.device)

    def call(self, what):
        if what == "forward":
            return self.library.forward_call(self.q, self.k, self.v, self.o, self.lse, kernel=self.kernel, **self.arguments())
        return self.library.backward_call(self.q, self.k, self.v, self.o, self.grad_o, self.lse, self.grad_q, self.grad_k, self.grad_v, kernel=self.kernel,
                                          grad_bias=self.grad_bias, **self.arguments())

    def arguments(self):
        options = dict(self.problem.options)
        return {"mask": options.pop("causal", "none"), **options}

    def planned(self, what):
        from flash_attention import describe

        return describe(self.q, self.k, self.v, backward=what == "backward", kernel=self.kernel, **self.problem.options).kernel_name

    def results(self, passes):
        shape = (self.problem.batch, self.problem.length, cases.HEADS)
        found = {"o": self.o.view(*shape, -1), "lse": self.lse.view(-1, cases.HEADS, shape[0], shape[1]).transpose(1, 2).reshape(shape[0], *shape[:0:-1])}
        if not self.problem.packed:
            found["lse"] = self.lse
        if "backward" in passes:
            found |= {n: getattr(self, n).view(*shape, -1) for n in GRADIENTS[:3]} | {"grad_bias": self.grad_bias}
        return found


def errors(problem, found, inputs, exact):
    """{result: relative error}, the worst of the sampled heads; exact is kept from call to call."""
    worst = {}
    for b, h in problem.samples():
        if (b, h) not in exact:
            exact[b, h] = cases.reference(problem, *inputs, b, h)
            if problem.bias is not None and problem.bias.shape[0] == 1:
                exact[b, h]["grad_bias"] = sum(cases.reference(problem, *inputs, i, h)["grad_bias"] for i in range(problem.batch))
        for name, got in found.items():
            if got is None:
                continue
            if name == "grad_bias":
                got = got[b if got.shape[0] > 1 else 0, h]
            else:
                got = got[b, h] if name == "lse" else got[b, :, h]
            worst[name] = max(worst.get(name, 0.0), cases.difference(got, exact[b, h][name]))
    return worst


def judge(worst, is_ours):
    """None, or what is wrong."""
    bad = [f"{n} {e:.1e}" for n, e in worst.items() if not e <= (ALLOWED_PEER if not is_ours else ALLOWED_BIAS if n == "grad_bias" else ALLOWED)]
    return f"wrong: relative error of {', '.join(bad)}" if bad else None


def exact_key(problem):
    """Problems with equal keys have one reference."""
    return id(problem.visible), problem.batch, problem.length


def reason(error):
    text = str(error).strip().split("\n")[0][:400] or type(error).__name__
    return f"refused: {text}" if getattr(error, "status_name", "") == "FA_STATUS_UNSUPPORTED" else f"failed: {type(error).__name__}: {text}"


def interleaved(calls, budget_s):
    """[(median ms, spread)] of calls that take turns; the spread is the 90th less the 10th percentile, relative."""
    event = lambda: torch.cuda.Event(enable_timing=True)
    for call in calls * 2:
        call()
    start, end = event(), event()
    start.record()
    for call in calls:
        call()
    end.record()
    torch.cuda.synchronize()
    rounds = rounds_within(start.elapsed_time(end), budget_s)
    times = [[] for _ in calls]
    for r in range(rounds):
        for at in range(len(calls)):
            index = (at + r) % len(calls)
            times[index].append((event(), event()))
            times[index][-1][0].record()
            calls[index]()
            times[index][-1][1].record()
    torch.cuda.synchronize()
    return [summary(a.elapsed_time(b) for a, b in pairs) for pairs in times]


class Child:
    """One case in its own process: prepares, says so, waits for its turn, measures."""

    def __init__(self, a, case):
        self.a, self.case, self.passes = a, case, a.passes.split(",")
        torch.manual_seed(0)
        self.inputs, self.exact, self.rows, self.ready = {}, {}, [], []

    def inputs_of(self, problem):
        shape = (problem.batch, problem.length, cases.HEADS, cases.DIM)
        if shape not in self.inputs:
            dtype = torch.float16 if self.a.device != "cpu" else torch.float32
            self.inputs[shape] = [torch.randn(shape, device=self.a.device, dtype=dtype) for _ in range(4)]
        return self.inputs[shape]

    def prepare(self):
        for label, problem, implementation, role in entries_of(self.case, self.a.device, self.a.divide):
            row = {"case": self.case, "label": label, "role": role, "ours": implementation == "ours", "pairs": problem.pairs, "status": {}, "kernels": {}}
            if implementation == "ours":
                for kernel in self.a.kernels.split(","):
                    mine = {**row, "label": f"{kernel} {label}", "status": {}, "kernels": {}}
                    self.prepare_one(mine, problem, lambda k=kernel, p=problem: Ours(Library(), p, self.inputs_of(p), k))
            elif self.a.peers and self.a.device != "cpu":
                make = PEERS[implementation]
                # What eager attention keeps is made when it is measured.
                self.prepare_one(row, problem, lambda p=problem, make=make: make(p, self.inputs_of(p)), check=implementation != "eager")

    def prepare_one(self, row, problem, make, check=True):
        """Runs and checks an implementation; row["status"] says for each pass that was tried whether it can be measured."""
        self.rows.append((row, problem, make))
        tried = ["forward", "backward"] if "backward" in self.passes else ["forward"]
        row["status"] = dict.fromkeys(tried, "ok")
        if not check:
            return
        for what in tried:
            try:
                if what == "forward":
                    implementation = make()
                implementation.call(what)()
                if row["ours"]:
                    row["kernels"][what] = implementation.planned(what)
            except Exception as error:
                row["status"].update(dict.fromkeys(tried[tried.index(what):], reason(error)))
                break
        done = [what for what in tried if row["status"][what] == "ok"]
        if done:
            row["errors"] = errors(problem, implementation.results(done), self.inputs_of(problem), self.exact.setdefault(exact_key(problem), {}))
            row["status"].update(dict.fromkeys(done, judge(row["errors"], row["ours"]) or "ok"))
        if self.a.device != "cpu":
            torch.cuda.empty_cache()

    def measure(self):
        live = [(row, problem, make()) for row, problem, make in self.rows if "ok" in row["status"].values()]
        for what in self.passes:
            calls = []
            for row, problem, implementation in live:
                if row["status"][what] != "ok":
                    continue
                try:
                    if row["ours"] and what == "backward":
                        implementation.call("forward")()
                    call = implementation.call(what)
                    call()
                    calls.append((row, problem, call))
                except torch.OutOfMemoryError as error:
                    row["status"][what] = reason(error)
            for (row, problem, _), (ms, spread) in zip(calls, interleaved([c[2] for c in calls], self.a.budget) if calls else []):
                row[what] = {"ms": ms, "spread": spread, "tflops": problem.flops(what) / ms * 1e-9}
            del calls
        return [row for row, _, _ in self.rows]

    def run(self):
        begin = time.monotonic()
        self.prepare()
        if self.a.device != "cpu":
            torch.cuda.synchronize()
        print(json.dumps({"ready": time.monotonic() - begin}), flush=True)
        if not sys.stdin.readline():
            return
        print(json.dumps({"rows": self.measure() if self.a.times and self.a.device != "cpu" else [row for row, _, _ in self.rows]}), flush=True)


def start(case, log):
    """The process of a case, and a queue of the lines that it says."""
    environment = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([sys.executable, os.path.abspath(__file__), *sys.argv[1:], "--child", case], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=log, text=True, env=environment)
    lines = queue.Queue()

    def read():
        for line in process.stdout:
            if line.startswith("{"):
                lines.put(json.loads(line))
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return process, lines


def run(a):
    """All rows, in the order of the cases."""
    begin = time.monotonic()
    left = lambda: max(0.1, a.limit - (time.monotonic() - begin))
    logs = {case: tempfile.TemporaryFile("w+") for case in a.cases}
    children = {case: start(case, logs[case]) for case in a.cases}
    rows, said = [], {}

    def listen(case, seconds):
        try:
            return children[case][1].get(timeout=seconds)
        except queue.Empty:
            return "late"

    # A case that hangs may take neither the others' time nor, while they measure, the GPU.
    for case in a.cases:
        said[case] = listen(case, max(0.1, left() - 0.4 * a.limit))
    for case in (c for c in a.cases if not isinstance(said[c], dict)):
        children[case][0].kill()
    for case in a.cases:
        process, answer = children[case][0], said[case]
        if isinstance(answer, dict):
            print(f"{time.monotonic() - begin:5.1f} s  {case}, prepared in {answer['ready']:.1f} s", file=sys.stderr, flush=True)
            process.stdin.write("go\n")
            process.stdin.flush()
            answer = listen(case, min(left(), 0.3 * a.limit))
        if isinstance(answer, dict):
            rows += answer["rows"]
        else:
            logs[case].seek(0)
            last = (logs[case].read().strip().split("\n") or [""])[-1][:250]
            status = "failed: not done in time" if answer == "late" else f"failed: {last or 'the process ended'}"
            rows.append({"case": case, "label": "", "role": "subject", "ours": True, "kernels": {}, "status": dict.fromkeys(a.passes.split(","), status)})
        process.kill()
        process.wait()
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(BARS))
    parser.add_argument("--passes", default="forward,backward")
    parser.add_argument("--kernels", default="auto")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="ours alone: nothing to compile")
    parser.add_argument("--no-times", dest="times", action="store_false", help="checks alone; what they compile stays in PyTorch's cache for the next run")
    parser.add_argument("--json")
    parser.add_argument("--budget", type=float, default=0.25, help="seconds of measuring per case and pass")
    parser.add_argument("--limit", type=float, default=100, help="seconds for everything; what is not done then is given up")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--divide", type=int, default=1, help="shorten all lengths")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    a = parser.parse_args()
    a.cases = a.only.split(",")
    for case in a.cases:
        if case not in BARS:
            parser.error(f"--only: expected some of {','.join(BARS)}, got '{case}'")
    if a.child:
        Child(a, a.child).run()
        return
    before = state() if a.device == "cuda" else {}
    rows = run(a)
    add_ratios(rows, a.passes.split(","))
    device = device_facts(Library(), before) if a.device == "cuda" else {}
    if a.json:
        write_json(a.json, {"device": device, "rows": rows})
    print(device)
    print_table(rows, a.passes.split(","))
    sys.exit(any(status.startswith(("wrong", "failed")) for row in rows if row["ours"] for status in row["status"].values()))


if __name__ == "__main__":
    main()
