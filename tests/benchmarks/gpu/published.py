#!/usr/bin/env python3
"""Tables of the READMEs that are taken from the published results. Needs no GPU and no package.

usage: python3 published.py [--write] [--summary]

A comment in front of a table says what it holds: `<!-- results: PASS TYPE, OURS / PEER|PEER -->` TFLOP/s of ours and of the better of the peers, by head_dim,
mask and length, which the table's first two columns and its head name; `<!-- results: variants -->` TFLOP/s of ours and the ratio to the fastest peer, by the
cases of VARIANT_ROWS, and `<!-- results: variants PASS -->` those of one pass, with the peer's; `<!-- results: deterministic TYPE -->` TFLOP/s of the default
and the deterministic backward pass and what the latter costs. The results are those of the newest run of each kind in tests/benchmarks/results: FILE.json,
FILE-head-dims.json (peers.py --dims), FILE-variants.json, FILE-deterministic.json. Without --write: exit code 1 if a number is another. --summary prints what the text beside the tables says of the same run: means,
worst cells, steps of training.
"""
import argparse
import glob
import json
import math
import os
import re
import subprocess
import sys

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", ".."))
RESULTS = os.path.join(ROOT, "tests", "benchmarks", "results")
TABLE = re.compile(r"(<!-- results: (.*?) -->\n)((?:\|.*\n)+)")
PEERS = ("fa2", "cudnn")
MASKS = {"full": False, "causal": True}
# What the rows of a table of variants are: (case, label) of the results, two where the row has two.
VARIANT_ROWS = {
    "causal ALiBi": [("alibi", "auto alibi")],
    "causal softcap": [("softcap", "auto softcap")],
    "causal window of 1024": [("window", "auto window")],
    "documents, packed sequences": [("document", "auto packed")],
    "documents, boolean mask": [("document", "auto visible")],
    "documents, boolean and block mask": [("document", "auto visible+blocks")],
    "bias with gradient, per batch and head": [("bias", "auto bias")],
    "bias with gradient, per head": [("bias_heads", "auto bias_heads")],
    "65 packed sequences, heavy tail (full / causal)": [("varlen", "auto varlen"), ("varlen_causal", "auto varlen_causal")],
    "window of 1024 at length 65536": [("long_window", "auto long_window")],
    "causal, no variant": [("causal", "auto causal")],
    "causal, softcap 30": [("softcap", "auto softcap")],
    "causal, ALiBi": [("alibi", "auto alibi")],
    "packed documents": [("document", "auto packed")],
    "… as a boolean mask": [("document", "auto visible")],
    "… and with their block mask": [("document", "auto visible+blocks")],
    "bias, one per batch entry and head": [("bias", "auto bias")],
    "bias, one per head": [("bias_heads", "auto bias_heads")],
}


KINDS = ("", "-head-dims", "-variants", "-deterministic", "-accuracy")


def newest(kind=""):
    """The contents of the newest run of its kind."""
    kind_of = lambda path: next((k for k in KINDS[1:] if path.endswith(f"{k}.json")), "")
    files = sorted(path for path in glob.glob(os.path.join(RESULTS, "*.json")) if kind_of(path) == kind)
    if not files:
        sys.exit(f"no results{kind} in {RESULTS}")
    with open(files[-1], encoding="utf-8") as file:
        return json.load(file)


class Plain:
    """The measurements of peers.py."""

    def __init__(self, *kinds):
        self.cells = {(m["dtype"], m["pass"], m["head_dim"], m["causal"], m["length"], m["implementation"]): m
                      for kind in kinds or ("",) for m in newest(kind)["measurements"] if "tflops" in m}

    def tflops(self, dtype, what, dim, causal, length, names):
        """The best of several implementations; None if none has it."""
        return max((self.cells[key]["tflops"] for key in ((dtype, what, dim, causal, length, name) for name in names) if key in self.cells), default=None)

    def ratios(self, dtype, what, ours, peers):
        """{(head_dim, causal, length): ours over the best peer}."""
        keys = [key[2:5] for key in self.cells if key[:2] == (dtype, what) and key[5] == ours]
        pairs = {key: (self.tflops(dtype, what, *key, [ours]), self.tflops(dtype, what, *key, peers)) for key in keys}
        return {key: mine / theirs for key, (mine, theirs) in pairs.items() if theirs}


def cells_of(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def length_of(text):
    return int(text[:-1]) * 1024 if text.endswith("k") else int(text)


def plain_table(plain, what, lines):
    """The lines of a table of TFLOP/s, with the numbers of the results."""
    match = re.fullmatch(r"(forward|backward) (\w+), (\S+) / (\S+)", what)
    if not match:
        sys.exit(f"'{what}': expected PASS TYPE, OURS / PEER|PEER")
    pass_name, dtype, ours, peers = match.groups()
    lengths = [length_of(cell) for cell in cells_of(lines[0])[2:]]
    written = lines[:2]
    for line in lines[2:]:
        dim, mask = cells_of(line)[:2]
        numbers = [[plain.tflops(dtype, pass_name, int(dim), MASKS[mask], length, names) for names in ([ours], peers.split("|"))] for length in lengths]
        written.append(f"| {dim} | {mask} | " + " | ".join("/".join("–" if n is None else f"{n:.0f}" for n in pair) for pair in numbers) + " |")
    return written


def fastest_bases(rows, cases, what):
    """TFLOP/s of the fastest peer of each case, with the name of the first unless it is FlexAttention."""
    bases = [[row for row in rows if row["case"] == case and row["role"] == "base" and what in row] for case in cases]
    best = [min(of_case, key=lambda row: row[what]["ms"] / row["pairs"]) for of_case in bases]
    return ("" if best[0]["label"] == "flex" else best[0]["label"].removeprefix("auto ") + ": ") + " / ".join(f"{row[what]['tflops']:.0f}" for row in best)


def variant_table(rows, lines, only_pass):
    """The lines of a table of variants: case, forward, backward, and what else it has; or, of one pass, case, ours, peer, ratio."""
    found = {(row["case"], row["label"]): row for row in rows}
    written = lines[:2]
    for line in lines[2:]:
        cells = cells_of(line)
        if cells[0] not in VARIANT_ROWS:
            sys.exit(f"published.py does not know which case '{cells[0]}' is")
        if only_pass:
            ours = [found[key][only_pass] for key in VARIANT_ROWS[cells[0]]]
            numbers = [" / ".join(f"{m['tflops']:.0f}" for m in ours), fastest_bases(rows, [case for case, _ in VARIANT_ROWS[cells[0]]], only_pass)]
            written.append("| " + " | ".join([cells[0], *numbers, " / ".join(f"{m['ratio']:.2f}" for m in ours)]) + " |")
            continue
        for place, what in ((1, "forward"), (2, "backward")):
            measured = [found[key].get(what, {}) for key in VARIANT_ROWS[cells[0]]]
            cells[place] = " / ".join(f"{m['tflops']:.0f}, {m['ratio']:.2f}" if "ratio" in m else "–" for m in measured)
        written.append("| " + " | ".join(cells) + " |")
    return written


def percent(share):
    """A share as the READMEs write it."""
    return f"{100 * share:.1f} %".replace("-", "− ") if abs(share) >= 0.0005 else "0.0 %"


def deterministic_table(cells, dtype, lines):
    """The lines of a table of both backward modes."""
    found = {(c["head_dim"], c["causal"], c["length"]): c for c in cells if c["dtype"] == dtype}
    lengths = [length_of(cell) for cell in cells_of(lines[0])[2:]]
    written = lines[:2]
    for line in lines[2:]:
        dim, mask = cells_of(line)[:2]
        row = [found[int(dim), MASKS[mask], length] for length in lengths]
        written.append(f"| {dim} | {mask} | " +
                       " | ".join(f"{c['default']['tflops']:.0f}/{c['deterministic']['tflops']:.0f} {percent(c['cost'])}" for c in row) + " |")
    return written


class Results:
    """The newest run of each kind."""

    def __init__(self):
        self.plain = Plain("", "-head-dims")
        self.variants = newest("-variants")["rows"]
        self.deterministic = newest("-deterministic")["cells"]

    def table(self, what, lines):
        kind, _, rest = what.partition(" ")
        if kind == "variants":
            return variant_table(self.variants, lines, rest)
        return deterministic_table(self.deterministic, rest, lines) if kind == "deterministic" else plain_table(self.plain, what, lines)


def rewritten(text, results):
    """The text with the numbers of the results, and how many tables it has."""
    count = 0

    def table(match):
        nonlocal count
        count += 1
        return match[1] + "\n".join(results.table(match[2], match[3].rstrip("\n").split("\n"))) + "\n"

    return TABLE.sub(table, text), count


def readmes():
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "*.md"], capture_output=True, text=True)
    if listed.returncode == 0:
        return [os.path.join(ROOT, path) for path in listed.stdout.split("\n") if path]
    return [path for path in glob.glob(os.path.join(ROOT, "**", "*.md"), recursive=True)]


def print_summary():
    plain = Plain()

    def mean(values):
        return math.exp(sum(map(math.log, values)) / len(values))

    def place(key):
        return f"d={key[0]} {'causal' if key[1] else 'full'} {key[2]}"

    for dtype in ("float16", "bfloat16"):
        for ours, peers in (("ours:auto", PEERS), ("ours:sm80", ("fa2",))):
            for what in ("forward", "backward"):
                ratios = plain.ratios(dtype, what, ours, peers)
                if not ratios:
                    continue
                low = min(ratios, key=ratios.get)
                by_dim = ", ".join(f"d={dim} {mean([r for key, r in ratios.items() if key[0] == dim]):.2f}" for dim in sorted({key[0] for key in ratios}))
                print(f"{what} {dtype} {ours} over the better of {', '.join(peers)}: geometric mean {mean(list(ratios.values())):.3f} ({by_dim}), "
                      f"worst {ratios[low]:.3f} ({place(low)}), best {max(ratios.values()):.2f}")
        for dim in (64, 128, 256):
            for causal in (False, True):
                keys = {name: [(dtype, what, dim, causal, 16384, name) for what in ("forward", "backward")] for name in ("ours:auto", "cudnn")}
                if all(key in plain.cells for pair in keys.values() for key in pair):
                    ours, theirs = (sum(plain.cells[key]["ms"] for key in keys[name]) for name in ("ours:auto", "cudnn"))
                    print(f"training step {dtype} 16384 d={dim} {'causal' if causal else 'full'}: {theirs / ours:.3f} x cudnn")
    others = Plain("-head-dims")
    for what in ("forward", "backward"):
        ratios = others.ratios("float16", what, "ours:auto", PEERS)
        low = min(ratios, key=ratios.get)
        print(f"{what} float16 at other head_dims over the better of {', '.join(PEERS)}: geometric mean {mean(list(ratios.values())):.3f}, "
              f"worst {ratios[low]:.3f} ({place(low)})")
    cells = newest("-deterministic")["cells"]
    costs = {(c["dtype"], c["head_dim"], c["causal"], c["length"]): c["cost"] for c in cells}
    for dtype in sorted({key[0] for key in costs}):
        of_type = {key: cost for key, cost in costs.items() if key[0] == dtype}
        worst = max(of_type, key=of_type.get)
        print(f"deterministic {dtype}: {len(of_type)} cells, mean {percent(sum(of_type.values()) / len(of_type))}, "
              f"worst {percent(of_type[worst])} ({place(worst[1:])}), least {percent(min(of_type.values()))}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--summary", action="store_true")
    a = parser.parse_args()
    results = Results()
    if a.summary:
        print_summary()
    total, different = 0, 0
    for path in readmes():
        with open(path, encoding="utf-8") as file:
            text = file.read()
        new, count = rewritten(text, results)
        total += count
        if new == text:
            continue
        different += 1
        for old_line, new_line in zip(text.split("\n"), new.split("\n")):
            if old_line != new_line and not a.write:
                print(f"{os.path.relpath(path, ROOT)}:\n  has     {old_line}\n  results {new_line}")
        if a.write:
            with open(path, "w", encoding="utf-8") as file:
                file.write(new)
            print(f"written: {os.path.relpath(path, ROOT)}")
    print(f"{total} tables, {different} files with other numbers" + (", written" if a.write and different else ""))
    return 1 if total == 0 or (different and not a.write) else 0


if __name__ == "__main__":
    sys.exit(main())
