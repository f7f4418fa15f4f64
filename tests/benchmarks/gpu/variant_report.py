#!/usr/bin/env python3
"""What variants.py measured, as text.

usage: python3 variant_report.py RESULT.json…      writes RESULT.md beside each
"""
import json
import os
import sys

# Ratio over the fastest base that a case must reach; None: nothing to reach.
BARS = {"causal": None, "alibi": 1.5, "softcap": 1.5, "window": 1.5, "document": 1.5, "bias": 1.3, "bias_heads": 1.3, "varlen": 0.9, "varlen_causal": 0.9,
        "long_window": 1 / 1.15}


def add_ratios(rows, passes):
    for row in rows:
        for what in passes:
            bases = [r[what]["ms"] / r["pairs"] for r in rows if r["case"] == row["case"] and r["role"] == "base" and what in r]
            if bases and what in row and row["role"] == "subject":
                row[what]["ratio"] = min(bases) / (row[what]["ms"] / row["pairs"])


def notes(row):
    """The largest error and the kernels, and what went otherwise."""
    worst = max(row.get("errors", {}).values(), default=None)
    said = ([] if worst is None else [f"{worst:.1e}"]) + ([" / ".join(row["kernels"].values())] if row["kernels"] else [])
    by_status = {}
    for what, status in row["status"].items():
        if status != "ok":
            by_status.setdefault(status, []).append(what)
    return "; ".join(said + [f"{', '.join(passes)} {status}" for status, passes in by_status.items()])


def print_table(rows, passes):
    columns = " ".join(f"{what + ' ms':>12} {'TFLOP/s':>7} {'ratio':>6}" for what in passes)
    print(f"\n{'case':<14} {'implementation':<22} {columns}    bar  largest error; kernels")
    for row in rows:
        cells = []
        for what in passes:
            m = row.get(what)
            ratio = f"{m['ratio']:.2f}" if m and "ratio" in m else ""
            cells.append(f"{m['ms']:12.3f} {m['tflops']:7.0f} {ratio:>6}" if m else f"{'-':>12} {'-':>7} {'':>6}")
        bar = BARS[row["case"]] if row["role"] == "subject" else None
        print(f"{row['case']:<14} {row['label']:<22} {' '.join(cells)} {f'{bar:.2f}' if bar else '':>6}  {notes(row)}")
    for case in (c for c in dict.fromkeys(row["case"] for row in rows) if BARS[c]):
        said = []
        for what in passes:
            best = max((r[what]["ratio"] for r in rows if r["case"] == case and "ratio" in r.get(what, {})), default=None)
            said.append(f"{what} not measured" if best is None else f"{what} {'met' if best >= BARS[case] else 'missed'} ({best:.2f} of {BARS[case]:.2f})")
        print(f"bar {case:<14} {', '.join(said)}")


def markdown(result):
    """A table per pass: times of ours, the fastest base, the ratio and the bar."""
    device, rows = result["device"], result["rows"]
    after = device["after"]
    lines = [f"Mask and score variants on {after['name']}, driver {after['driver_version']}, PyTorch {device['torch']} (CUDA {device['cuda']}),",
             f"{device['utc'][:10]}; library: {device['library']}. fp16, median of calls that take turns; TFLOP/s count visible pairs.", ""]
    for what in ("forward", "backward"):
        lines += [f"| {what}: case | ours | ms | TFLOP/s | fastest base | ms | TFLOP/s | ratio | bar |", "|" + " --- |" * 9]
        for row in (r for r in rows if r["role"] == "subject"):
            bases = [r for r in rows if r["case"] == row["case"] and r["role"] == "base" and what in r]
            base = min(bases, key=lambda r: r[what]["ms"] / r["pairs"], default=None)
            bar = BARS[row["case"]]
            ours = [f"{row[what]['ms']:.3f}", f"{row[what]['tflops']:.0f}"] if what in row else [row["status"].get(what, "not measured").split(":")[0], "–"]
            theirs = [base["label"], f"{base[what]['ms']:.3f}", f"{base[what]['tflops']:.0f}"] if base else ["–", "–", "–"]
            ratio = f"{row[what]['ratio']:.2f}" if "ratio" in row.get(what, {}) else "–"
            cells = [row["case"], f"{row['label']} ({row['kernels'].get(what, '–')})", *ours, *theirs, ratio, f"{bar:.2f}" if bar else "–"]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    others = [f"{r['case']} {r['label']}: " + ", ".join(f"{w} {r[w]['ms']:.3f} ms, {r[w]['tflops']:.0f} TFLOP/s" for w in ("forward", "backward") if w in r)
              for r in rows if r["role"] != "subject" and ("forward" in r or "backward" in r)]
    missing = [f"{r['case']} {r['label']}: {notes(r)}" for r in rows if any(status != "ok" for status in r["status"].values())]
    lines += ["Bases and context: " + "; ".join(others) + ".", ""] + (["Not measured: " + "; ".join(missing) + ".", ""] if missing else [])
    return "\n".join(lines)


def main():
    for path in sys.argv[1:]:
        with open(path) as file:
            text = markdown(json.load(file))
        target = os.path.splitext(path)[0] + ".md"
        with open(target, "w") as file:
            file.write(text)
        print(target)


if __name__ == "__main__":
    main()
