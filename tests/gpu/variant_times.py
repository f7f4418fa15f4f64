"""Times of the forward pass with variants, for check_variants.py --times."""
import itertools
import math
import random
import statistics

import torch

from checking import slopes
from fa_ctypes import Library


def timed(name, b, length, heads, d, o, pairs, kernel, repeats=15, dtype=torch.float16):
    """Median milliseconds and TFLOP/s over visible pairs of one prepared call."""
    q, k, v = (torch.randn(b, length, heads, d, device="cuda", dtype=dtype) for _ in range(3))
    out, lse, options = torch.empty_like(q), torch.empty(b, heads, length, device="cuda"), dict(o)
    call = Library().forward_call(q, k, v, out, lse, options.pop("causal", "none"), kernel=kernel, **options)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    for _ in range(3):
        call()
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    torch.cuda.synchronize()
    ms = statistics.median(x.elapsed_time(y) for x, y in zip(events, events[1:]))
    flops = 4.0 * heads * d * pairs
    print(f"{name:44} {ms:8.3f} ms {flops / ms / 1e9:7.0f} TFLOP/s", flush=True)


def window_pairs(b, length, left, right):
    rows = torch.arange(length, dtype=torch.float64)
    return b * float((torch.clamp(rows + right + 1, max=length) - torch.clamp(rows - left, min=0)).sum())


def heavy_tail(total=65536, longest=16384, mean=1024, seed=5):
    rng, lengths = random.Random(seed), [longest]
    while sum(lengths) < total:
        lengths.append(min(longest, max(16, int(rng.paretovariate(1.2) * mean / 5))))
    lengths[-1] -= sum(lengths) - total
    return [n for n in lengths if n > 0]


def times(kernel):
    S, B = 8192, 2
    causal = {"causal": "bottom_right"}
    for d, heads in ((128, 16), (64, 32), (256, 8)):
        pairs = B * S * (S + 1) / 2
        run = lambda name, o, p, b=B, s=S: timed(f"d{d} {name}", b, s, heads, d, o, p, kernel)
        run("full", {}, B * S * S)
        run("causal", causal, pairs)
        run("window 1024 causal", causal | {"window": (1023, 0)}, window_pairs(B, S, 1023, 0))
        run("window 1024 both sides", {"window": (1024, 1024)}, window_pairs(B, S, 1024, 1024))
        run("window 1024 causal, 65536", causal | {"window": (1023, 0)}, window_pairs(1, 65536, 1023, 0), 1, 65536)
        run("window 1024 both sides, 65536", {"window": (1024, 1024)}, window_pairs(1, 65536, 1024, 1024), 1, 65536)
        run("chunk 2048 causal", causal | {"chunk": 2048}, B * (S // 2048) * 2048 * 2049 / 2)
        run("alibi causal", causal | {"alibi_slopes": slopes(heads)}, pairs)
        run("softcap 30 causal", causal | {"softcap": 30.0}, pairs)
        run("sinks causal", causal | {"sinks": torch.randn(heads, device="cuda")}, pairs)
        if d == 128:
            run("alibi full", {"alibi_slopes": slopes(heads)}, B * S * S)
            times_of_sequences(kernel)


def times_of_sequences(kernel):
    """Packed sequences of a heavy tail beside equally long ones with as many pairs per query."""
    lengths = heavy_tail()
    cu = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device="cuda")
    packed = {"cu_seqlens_q": cu, "cu_seqlens_kv": cu, "max_len_q": max(lengths), "max_len_kv": max(lengths)}
    print(f"{len(lengths)} sequences, mean {sum(lengths) / len(lengths):.0f}, longest {max(lengths)}")
    for extra in ({}, {"causal": "bottom_right"}):
        p = sum(n * n if not extra else n * (n + 1) / 2 for n in lengths)
        equal = math.isqrt(int(sum(n * n for n in lengths) / len(lengths)))
        try:
            timed(f"d128 packed heavy tail {extra}", 1, sum(lengths), 16, 128, packed | extra, p, kernel)
        except Exception as error:  # noqa: BLE001
            print(f"packed: {str(error)[-100:]}")
        timed(f"d128 dense {extra}, {equal} long", 65536 // equal, equal, 16, 128, extra,
              (65536 // equal) * (equal**2 if not extra else equal * (equal + 1) / 2), kernel)
