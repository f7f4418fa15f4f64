#!/usr/bin/env python3
"""Draws the plots of a result file of peers.py with matplotlib: TFLOP/s over the length, a panel per head_dim and mask, and extra memory over the length; and
writes its figures as tables.

usage: python3 plots.py RESULT.json…      writes RESULT-<pass>-<dtype>.svg, RESULT-memory.svg and RESULT.md beside each
"""
import json
import os
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

# Implementation: label, colour, line style. Drawn in this order.
STYLES = {
    "ours:auto": ("this library", "#c1272d", "-"),
    "ours:sm80": ("this library, portable kernels", "#e8893b", "-"),
    "cudnn": ("cuDNN", "#3b7a57", "--"),
    "fa2": ("FlashAttention-2", "#2b5c9e", "--"),
    "eager": ("eager PyTorch", "#777777", ":"),
}
MIB = 1024.0**2


def series(measurements, field, **wanted):
    """{implementation: ([lengths], [values])} of the measurements that have the field and all wanted properties."""
    found = {}
    for m in measurements:
        if field in m and all(m[key] == value for key, value in wanted.items()):
            found.setdefault(m["implementation"], []).append((m["length"], m[field]))
    return {name: tuple(zip(*sorted(points))) for name, points in found.items()}


def draw_panel(axes, lines, scale=1.0):
    for name, (label, colour, style) in STYLES.items():
        if name in lines:
            lengths, values = lines[name]
            width, size = (2.0, 4) if name.startswith("ours") else (1.4, 3)
            axes.plot(lengths, [v * scale for v in values], style, color=colour, label=label, linewidth=width, marker="o", markersize=size)
    axes.set_xscale("log", base=2)
    ticks = sorted({x for lengths, _ in lines.values() for x in lengths})
    axes.set_xticks(ticks, [f"{x // 1024}k" if x >= 1024 else str(x) for x in ticks])
    axes.minorticks_off()
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def finish(figure, panels, title, path):
    handles = {}
    for axes in panels:
        handles.update({label: handle for handle, label in zip(*axes.get_legend_handles_labels())})
    figure.suptitle(title, fontsize=11)
    margin = 0.35 / figure.get_figheight()
    figure.get_layout_engine().set(rect=(0, margin, 1, 1 - margin))
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncol=len(handles), frameon=False, fontsize=9)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    print(path)


def draw_speed(data, dtype, what, path):
    rows = [m for m in data["measurements"] if m["dtype"] == dtype and m["pass"] == what]
    dims = sorted({m["head_dim"] for m in rows})
    figure, panels = plt.subplots(2, len(dims), figsize=(3.6 * len(dims), 5.8), sharex=True, squeeze=False, layout="constrained")
    for column, dim in enumerate(dims):
        for line, causal in enumerate((False, True)):
            axes = panels[line][column]
            draw_panel(axes, series(rows, "tflops", head_dim=dim, causal=causal))
            axes.set_title(f"head_dim {dim}, {'causal' if causal else 'no mask'}", fontsize=9)
            axes.set_ylim(bottom=0)
        panels[1][column].set_xlabel("length")
    for line in panels:
        line[0].set_ylabel("TFLOP/s")
    title = f"Attention {what}, {dtype}, {data['tokens']} tokens, heads · head_dim = {data['width']}, {data['device']['before']['name']}"
    finish(figure, panels.flat, title, path)


def draw_memory(data, path):
    rows = [m for m in data["measurements"] if m["dtype"] == "float16" and not m["causal"]]
    dims = sorted({m["head_dim"] for m in rows})
    passes = [what for what in ("forward", "backward") if any(m["pass"] == what for m in rows)]
    size = (3.6 * len(dims), 2.9 * len(passes))
    figure, panels = plt.subplots(len(passes), len(dims), figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained")
    for line, what in enumerate(passes):
        for column, dim in enumerate(dims):
            axes = panels[line][column]
            draw_panel(axes, series(rows, "extra_bytes", **{"head_dim": dim, "pass": what}), 1 / MIB)
            axes.set_title(f"{what}, head_dim {dim}", fontsize=9)
            axes.set_yscale("log", base=10)
            axes.minorticks_off()
        panels[line][0].set_ylabel("MiB beside inputs and outputs")
    for axes in panels[-1]:
        axes.set_xlabel("length")
    finish(figure, panels.flat, f"Extra device memory, float16, no mask, {data['tokens']} tokens, {data['device']['before']['name']}", path)


def write_tables(data, path):
    """Markdown: TFLOP/s per pass and type, a row per head_dim and mask, a column per length."""
    device = data["device"]
    facts = f"{device['before']['name']}, driver {device['before'].get('driver_version')}, PyTorch {device.get('torch')}, cuDNN {device.get('cudnn')}"
    facts += f", {device.get('library')}, {device.get('utc')}; {data['tokens']} tokens, heads · head_dim = {data['width']}."
    if device.get("matrix_product_tflops"):
        facts += f" A product of two 8192 x 8192 float16 matrices ran at {device['matrix_product_tflops']:.0f} TFLOP/s right afterwards."
    lines = [f"# TFLOP/s on {device['before']['name']}", "", facts, ""]
    measured = [m for m in data["measurements"] if "tflops" in m]
    for dtype, what in sorted({(m["dtype"], m["pass"]) for m in measured}):
        rows = {(m["head_dim"], m["causal"], m["length"], m["implementation"]): m["tflops"] for m in measured if (m["dtype"], m["pass"]) == (dtype, what)}
        lengths = sorted({key[2] for key in rows})
        names = [name for name in STYLES if any(key[3] == name for key in rows)]
        lines += [f"## {what}, {dtype}: " + " / ".join(STYLES[name][0] for name in names), ""]
        lines += ["| head_dim | mask | " + " | ".join(map(str, lengths)) + " |", "| --- " * (2 + len(lengths)) + "|"]
        for dim, causal in sorted({key[:2] for key in rows}):
            cells = [" / ".join(f"{rows[dim, causal, length, n]:.0f}" if (dim, causal, length, n) in rows else "–" for n in names) for length in lengths]
            lines.append(f"| {dim} | {'causal' if causal else 'none'} | " + " | ".join(cells) + " |")
        lines.append("")
    with open(path, "w") as file:
        file.write("\n".join(lines))
    print(path)


def draw(result):
    """Draws all plots of a result file and writes its tables beside it."""
    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "flash-attention", "svg.fonttype": "none", "font.family": "sans-serif"})  # equal results, equal files
    with open(result) as file:
        data = json.load(file)
    base = os.path.splitext(result)[0]
    for dtype, what in sorted({(m["dtype"], m["pass"]) for m in data["measurements"] if "tflops" in m}):
        draw_speed(data, dtype, what, f"{base}-{what}-{dtype}.svg")
    write_tables(data, f"{base}.md")
    if any("extra_bytes" in m for m in data["measurements"]):
        draw_memory(data, f"{base}-memory.svg")


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    for result_path in sys.argv[1:]:
        draw(result_path)
