#!/usr/bin/env python3
"""Checks mask and score variants of the CUDA kernels, forward, against PyTorch in float64, at sizes around the tiles' edges; and times them.

usage: FLASH_ATTENTION_LIBRARY=…/libflash_attention.so python3 check_variants.py [--kernel sm90]
       [--only SUBSTRING] [--seed N] [--count N] [--masks] [--no-checks] [--times]

Inputs lie in larger tensors of NaN, outputs are poisoned.
O is held to what a tensor-core kernel owes (three roundings of the largest |v|, 1.5 in the norm), the
log-sum-exp to fp32.
"""
import argparse
import itertools
import math
import random
import signal
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bindings" / "python"))
from checking import Tally, case_text, document_mask, one_odd_pair, shapes_of, slopes  # noqa: E402
from flash_attention import attention_forward  # noqa: E402
from variant_reference import compare, exact, sequence_spans  # noqa: E402
from variant_times import times  # noqa: E402


def inside_nan(shape, dtype):
    b, s, h, d = shape
    return torch.full((b, s + 3, h + 1, (d + 7) // 8 * 8 + 8), math.nan, device="cuda", dtype=dtype)[:, :s, :h, :d]


class Checker(Tally):
    def __init__(self, kernel, only):
        super().__init__(only, most=12)
        self.kernel, self.refused = kernel, {}

    def case(self, name, b, len_q, len_kv, heads_q, heads_kv, d, dtype, o, dv=None, touch=None, tolerance=1.0):
        text = case_text(name, b, len_q, len_kv, heads_q, heads_kv, d, dv, dtype, shapes_of(o))
        if not self.wants(text):
            return
        q, k, v = (inside_nan(s, dtype) for s in ((b, len_q, heads_q, d), (b, len_kv, heads_kv, d), (b, len_kv, heads_kv, dv or d)))
        for t in (q, k, v):
            t.copy_(torch.randn(t.shape, device="cuda"))
        if touch:
            touch(q, k, v)
        room = torch.full((q.shape[0] * len_q * heads_q * (dv or d) + 8192,), 7.0, device="cuda", dtype=dtype)
        out = room[4096:room.numel() - 4096].view(b, len_q, heads_q, dv or d)
        out.fill_(math.nan)
        self.cases += 1
        try:
            _, lse = attention_forward(q, k, v, out=out, kernel=self.kernel, **o)
            torch.cuda.synchronize()
        except Exception as error:  # noqa: BLE001
            # Between them the kernels compute everything; one family may refuse.
            if self.kernel != "auto" and ("does not compute" in str(error) or "each by itself" in str(error)):
                self.refused[name] = str(error)[-120:]
                self.cases -= 1
                return
            wrong = str(error)
            if "CUDA" in wrong or "device" in wrong:
                print(f"{text}: {wrong}", flush=True)
                sys.exit(1)
        else:
            fence = bool((room[:4096] == 7).all()) and bool((room[-4096:] == 7).all())
            wrong = compare(out, lse, *exact(q, k, v, o), dtype, v, tolerance) if fence else "a write outside o"
        if wrong:
            self.fail(text, wrong)


RANGES = [{"window": (0, 0)}, {"window": (5, -1)}, {"window": (-1, 7)}, {"window": (20, 3)}, {"window": (127, 0)}, {"window": (128, 0)}, {"window": (300, 0)},
          {"window": (64, 64)}, {"window": (1000, 200)}, {"window": (191, -1)}, {"window": (100, 0), "causal": "top_left"},
          {"window": (100, 0), "causal": "bottom_right"}, {"window": (513, 0), "causal": "bottom_right"}, {"chunk": 1}, {"chunk": 16},
          {"chunk": 50}, {"chunk": 128},
          {"chunk": 200, "causal": "top_left"}, {"chunk": 333, "causal": "bottom_right"}, {"chunk": 256, "window": (100, 5)}]
LENGTHS = [(1, 1), (64, 128), (127, 129), (128, 128), (129, 257), (200, 300), (513, 777), (777, 513),
           (1024, 1024), (300, 1500), (1500, 300), (2, 700), (700, 2)]


def scores_of(heads, b):
    return {"alibi": {"alibi_slopes": slopes(heads)}, "alibi per batch": {"alibi_slopes": slopes(b, heads)},
            "alibi of both signs": {"alibi_slopes": slopes(heads) - 0.25},
            "steep alibi": {"alibi_slopes": slopes(heads) * 40}, "softcap": {"softcap": 30.0}, "tight softcap": {"softcap": 1.5},
            "sinks": {"sinks": torch.randn(heads, device="cuda")},
            "dominant sinks": {"sinks": torch.randn(heads, device="cuda") * 30}}


def pairs_of(heads, b, len_q, len_kv, dtype):
    rand = lambda *s: torch.randn(*s, device="cuda")
    return {"bias": {"bias": rand(b, heads, len_q, len_kv)}, "bias of rows": {"bias": rand(1, heads, 1, len_kv).to(dtype)},
            "shared bias": {"bias": rand(1, 1, len_q, len_kv).to(dtype)},
            "hiding bias": {"bias": rand(1, 1, len_q, len_kv).masked_fill(rand(1, 1, len_q, len_kv) > 0, -math.inf)},
            "visible": {"visible": rand(b, heads, len_q, len_kv) > 0}, "key padding": {"visible": rand(b, 1, 1, len_kv) > -1},
            "blocks": {"block_mask": rand(1, heads, -(-len_q // 64), -(-len_kv // 128)) > 0, "block_size": (64, 128)},
            "few blocks": {"block_mask": rand(b, 1, -(-len_q // 128), -(-len_kv // 48)) > 1, "block_size": (128, 48)},
            "dropout": {"dropout_p": 0.3, "dropout_seed": 12345678901},
            "visible softcap alibi": {"visible": rand(b, 1, len_q, len_kv) > 0, "softcap": 5.0, "alibi_slopes": slopes(heads)}}


def sequences_of(kind, rng, b, len_q, len_kv):
    """Sequence options; packed kinds pack b sequences into one batch entry."""
    lengths = lambda n, most: [rng.choice([0, 1, rng.randint(0, most), rng.randint(0, most), most]) for _ in range(n)]
    tensor = lambda x: torch.tensor(x, dtype=torch.int32, device="cuda")
    if kind.startswith("packed"):
        n_q, n_kv = lengths(b, len_q), lengths(b, len_kv)
        o = {"cu_seqlens_q": tensor([0, *itertools.accumulate(n_q)]), "cu_seqlens_kv": tensor([0, *itertools.accumulate(n_kv)]),
             "max_len_q": max(n_q), "max_len_kv": max(n_kv)}
        if kind != "packed":
            o |= {"seqused_q": tensor([rng.randint(0, n) for n in n_q]), "seqused_kv": tensor([rng.randint(0, n) for n in n_kv])}
        sizes = 1, sum(n_q) + 3, sum(n_kv) + 5
    else:
        o = {"seqused_kv": tensor(lengths(b, len_kv))}
        if kind != "used keys":
            o["seqused_q"] = tensor(lengths(b, len_q))
        sizes = b, len_q, len_kv
    return o | ({"left_padded": True} if "left" in kind else {}), sizes


SEQUENCES = ["packed", "packed used", "packed left", "used", "used keys", "left"]


def random_cases(checker, count, seed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    for i in range(count):
        d, dtype = rng.choice([64, 128, 256, 128, 64, 40, 96]), rng.choice([torch.float16, torch.bfloat16])
        (len_q, len_kv), (heads_q, heads_kv), b = rng.choice(LENGTHS), rng.choice([(2, 1), (4, 2), (3, 3)]), rng.choice([1, 2])
        o, name = {}, []
        if rng.random() < 0.7:
            o |= rng.choice(RANGES)
            name.append("range")
        elif rng.random() < 0.6:
            o["causal"] = rng.choice(["top_left", "bottom_right"])
        which = rng.random()
        if which < 0.55:
            key = rng.choice(list(scores_of(heads_q, b)))
            o |= scores_of(heads_q, b)[key]
            name.append(key)
        elif which < 0.8:
            options = pairs_of(heads_q, b, len_q, len_kv, dtype)
            key = rng.choice(list(options))
            o |= options[key]
            name.append(key)
        if rng.random() < 0.2 and "sinks" not in o:
            o["sinks"] = torch.randn(heads_q, device="cuda")
            name.append("+sinks")
        checker.case(" ".join(name) or "plain", b, len_q, len_kv, heads_q, heads_kv, d, dtype, o, dv=rng.choice([None, None, d // 16 * 8]))
    for i in range(count // 4):
        d, dtype, kind = rng.choice([64, 128, 256]), rng.choice([torch.float16, torch.bfloat16]), rng.choice(SEQUENCES)
        heads_q, heads_kv = rng.choice([(2, 1), (4, 2), (3, 3)])
        b = rng.choice([1, 3, 9])
        o, (batch, len_q, len_kv) = sequences_of(kind, rng, b, rng.choice([5, 130, 700]), rng.choice([5, 130, 700]))
        extra = rng.choice([{}, {}, {"causal": "top_left"}, {"causal": "bottom_right"}, {"window": (100, 0), "causal": "bottom_right"}, {"softcap": 5.0},
                            {"chunk": 100},
                            {"alibi_slopes": slopes(b, heads_q)}, {"sinks": torch.randn(heads_q, device="cuda")}])
        hidden = hide_unused(o) if rng.random() < 0.5 else None
        checker.case(f"sequences: {kind}", batch, len_q, len_kv, heads_q, heads_kv, d, dtype, o | extra, touch=hidden)


def hide_unused(o):
    """NaN where no sequence is."""
    def touch(q, k, v):
        used = [torch.zeros(t.shape[:2], dtype=torch.bool, device="cuda") for t in (q, k)]
        for b, q0, n_q, k0, n_kv in sequence_spans(q, k, o):
            used[0][b, q0:q0 + n_q] = True
            used[1][b, k0:k0 + n_kv] = True
        q[~used[0]] = math.nan
        k[~used[1]] = math.nan
        v[~used[1]] = math.inf
    return touch


def fixed_cases(checker):
    torch.manual_seed(3)
    # Windows at every alignment of their edges to the tiles.
    for d, edge in itertools.product((64, 128, 256), (0, 1, 63, 64, 65, 127, 128, 129, 191, 192, 255, 256, 400)):
        checker.case("window edge", 1, 700, 700, 2, 1, d, torch.float16, {"window": (edge, 0)})
        checker.case("window edge", 1, 513, 650, 1, 1, d, torch.bfloat16, {"window": (edge, edge // 2), **({"causal": None})})
        checker.case("chunk edge", 1, 600, 600, 2, 1, d, torch.float16, {"chunk": edge + 1, **({"causal": "bottom_right"} if edge % 2 else {})})
    # Many query tiles: order of work, persistent blocks.
    for d, o in itertools.product((64, 128, 256), ({"window": (200, 0)}, {"causal": "bottom_right", "softcap": 20.0},
                                                   {"causal": "top_left", "alibi_slopes": slopes(40)}, {"chunk": 512},
                                                   {"window": (150, 0), "causal": "bottom_right"}, {"chunk": 128, "causal": "top_left"})):
        checker.case("many tiles", 2, 1500, 1500, 40, 8, d, torch.float16, o)

    # A 16-bit bias in rows of whole 16 bytes, which TMA can bring; hiding ones leave rows without a key.
    for (len_q, len_kv), dtype, (b, shape) in itertools.product(((500, 504), (129, 1000), (1024, 1024), (70, 64)), (torch.float16, torch.bfloat16),
                                                                ((2, (2, 4)), (2, (1, 4)), (2, (2, 1)), (1, (1, 1)))):
        for d, o in itertools.product((64, 128), ({}, {"causal": "bottom_right"}, {"window": (130, 0)}, {"sinks": torch.randn(4, device="cuda")})):
            bias = torch.randn(*shape, len_q, len_kv, device="cuda")
            checker.case("bias tiles", b, len_q, len_kv, 4, 2, d, dtype, o | {"bias": bias.to(dtype)})
            if d == 128:
                checker.case("steep bias tiles", b, len_q, len_kv, 4, 2, d, dtype, o | {"bias": (bias * 20).to(dtype)})
                hiding = bias.masked_fill(torch.rand_like(bias) > 0.5, -math.inf)
                hiding[:, :, ::7] = -math.inf
                checker.case("hiding bias tiles", b, len_q, len_kv, 4, 2, d, dtype, o | {"bias": hiding.to(dtype)})

    mask_cases(checker)

    # NaN and infinity stay in the rows that see them.
    def spot(tensor, row, value):
        return lambda q, k, v: {"q": q, "k": k, "v": v}[tensor][:, row, 0].fill_(value)

    variants = [{"window": (70, 0)}, {"window": (70, 30)}, {"chunk": 100}, {"causal": "bottom_right", "softcap": 20.0},
                {"window": (90, 0), "alibi_slopes": slopes(2)},
                {"window": (130, 2), "softcap": 9.0}, {"visible": torch.rand(1, 2, 500, 500, device="cuda") > 0.4},
                {"bias": torch.where(torch.rand(1, 2, 500, 504, device="cuda") > 0.4, 0.5, -math.inf).half()[..., :500]}]
    for d, o, row, value in itertools.product((64, 128, 256), variants, (0, 129, 255, 300, 499), (math.nan, math.inf)):
        checker.case("special v", 1, 500, 500, 2, 2, d, torch.float16, o, touch=spot("v", row, value))
    for d, o, row in itertools.product((64, 128), variants, (129, 300)):
        checker.case("nan k", 1, 500, 500, 2, 2, d, torch.float16, o, touch=spot("k", row, math.nan))
        checker.case("nan q", 1, 500, 500, 2, 2, d, torch.float16, o, touch=spot("q", row, math.nan))

    # Logits that grow from tile to tile, by row and by lane, against the cheap path of the softmax.
    def growing(growth, where):
        def touch(q, k, v):
            q.mul_(0.1)
            q[..., 0] = 16.0
            j = torch.arange(k.shape[1], device="cuda", dtype=torch.float32)
            k[..., 0] = (growth * where(j) / 16.0).to(k.dtype)[None, :, None]
        return touch

    patterns = {"up": lambda j: torch.div(j, 64, rounding_mode="floor"), "down": lambda j: 14 - torch.div(j, 64, rounding_mode="floor"),
                "lane": lambda j: (14 - torch.div(j, 64, rounding_mode="floor")) * (j % 8 == 5)}
    for d, dtype, growth, pattern in itertools.product((64, 128, 256), (torch.float16, torch.bfloat16), (2.0, 20.0, 200.0), patterns):
        for o in ({"window": (300, 0)}, {"window": (400, 100)}, {"causal": "bottom_right", "softcap": 50.0},
                  {"alibi_slopes": slopes(2) * 4, "causal": "bottom_right"}, {"softcap": 300.0},
                  {"alibi_slopes": slopes(2) - 0.25}, {"visible": document_mask(1, 300, 900, 200)}):
            checker.case(f"growing {pattern}", 1, 300, 900, 2, 2, d, dtype, {**o, "scale": 1.0}, touch=growing(growth, patterns[pattern]), tolerance=2.0)


def mask_cases(checker):
    """Boolean and block masks: tiles that are hidden, whole, and neither, in all positions; every way of sharing a mask."""
    lengths = ((512, 512), (500, 777), (900, 384), (65, 130))
    for i, (d, (len_q, len_kv)) in enumerate(itertools.product((64, 128), lengths)):
        dtype = (torch.float16, torch.bfloat16)[(i + i // len(lengths)) % 2]
        case = lambda name, o, b=2, heads=4, kv=2: checker.case(name, b, len_q, len_kv, heads, kv, d, dtype, o)
        for mean in (40, 150, 1000):
            case("documents", {"visible": document_mask(2, len_q, len_kv, mean)})
        documents = document_mask(1, len_q, len_kv, 100)
        case("shared documents", {"visible": documents})
        case("documents of heads", {"visible": document_mask(8, len_q, len_kv, 100).view(2, 4, len_q, len_kv)})
        case("documents of heads alone", {"visible": document_mask(4, len_q, len_kv, 100).view(1, 4, len_q, len_kv)})
        case("mask of holes", {"visible": one_odd_pair(len_q, len_kv, False)})
        case("mask of needles", {"visible": one_odd_pair(len_q, len_kv, True)})
        case("mask of everything", {"visible": torch.ones(1, 1, len_q, len_kv, device="cuda", dtype=torch.bool)})
        case("mask of nothing", {"visible": torch.zeros(2, 1, len_q, len_kv, device="cuda", dtype=torch.bool), "sinks": torch.randn(4, device="cuda")})
        case("mask of rows", {"visible": torch.rand(2, 1, len_q, 1, device="cuda").gt(0.5).expand(2, 1, len_q, len_kv).contiguous()})
        case("mask of keys", {"visible": torch.rand(2, 1, 1, len_kv, device="cuda") > 0.5})
        padding = torch.arange(len_kv, device="cuda") < torch.tensor([len_kv // 3, len_kv - 1], device="cuda")[:, None]
        case("mask of padding", {"visible": padding[:, None, None]})

        def poison(q, k, v):
            k[~padding] = math.nan
            v[~padding] = math.nan

        for row in (0, len_kv // 2, len_kv - 1):
            def spot(q, k, v, row=row):
                v[:, row, 0] = math.inf

            checker.case("special v of documents", 2, len_q, len_kv, 4, 2, d, dtype, {"visible": documents, "window": (70, 0)}, touch=spot)
        checker.case("poisoned padding", 2, len_q, len_kv, 4, 2, d, dtype, {"visible": padding[:, None, None]}, touch=poison)
        extras = [{"causal": "bottom_right"}, {"window": (200, 30)}, {"sinks": torch.randn(4, device="cuda")}, {"causal": "top_left"}, {"chunk": 100}]
        for extra in extras[:3] if i % 2 else extras[2:]:
            case("documents and more", {"visible": documents} | extra)
            case("everything and more", {"visible": torch.ones_like(documents)} | extra)
        sizes = [(128, 128), (64, 128), (16, 16), (48, 208), (192, 64)]
        for size in (sizes[i % 5], sizes[(i + 2) % 5]):
            blocks = torch.rand(2, 4, -(-len_q // size[0]), -(-len_kv // size[1]), device="cuda") > 0.5
            case("mask blocks", {"block_mask": blocks, "block_size": size})
            case("shared mask blocks", {"block_mask": blocks[:1, :1], "block_size": size, "causal": "bottom_right"})
            case("mask blocks and documents", {"block_mask": blocks[:1], "block_size": size, "visible": document_mask(2, len_q, len_kv, 200)})
    # Many tiles: order of work.
    for d, heads in ((64, 4), (128, 24), (40, 4), (96, 4)):
        checker.case("many listed tiles", 2, 1500, 1500, heads, 4, d, torch.float16, {"visible": document_mask(2, 1500, 1500, 300)})
        checker.case("many listed tiles", 1, 1500, 1400, heads, 4, d, torch.float16, {"block_mask": torch.rand(1, heads, 12, 11, device="cuda") > 0.7,
                                                                                   "block_size": (128, 128), "causal": "bottom_right"})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kernel", default="auto")
    parser.add_argument("--only", default="")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=800)
    parser.add_argument("--masks", action="store_true", help="only the cases of boolean and block masks")
    parser.add_argument("--no-checks", action="store_true")
    parser.add_argument("--times", action="store_true")
    options = parser.parse_args()
    started, code = time.time(), 0
    if not options.no_checks:
        checker = Checker(options.kernel, options.only)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(f"stopped after {checker.cases} cases, {checker.failures} of them wrong"))
        if options.masks:
            mask_cases(checker)
        else:
            fixed_cases(checker)
            random_cases(checker, options.count, options.seed)
        print(f"{checker.cases - checker.failures} of {checker.cases} cases right, {time.time() - started:.1f} s; refused: {checker.refused}")
        code = checker.verdict()
    if options.times:
        times(options.kernel)
    return code


if __name__ == "__main__":
    sys.exit(main())
