"""Draw docs/pictures/scaling.png from the rows of `bench.scaling`: time and memory against the plan's figures."""

from __future__ import annotations

import json

import numpy as np
from matplotlib.figure import Figure
from picture import RESULTS, save

COLOURS = {"side": "#c2410c", "stride": "#0f766e", "patch": "#7c3aed", "batch": "#475569"}
NAMES = {"side": "image size", "stride": "stride", "patch": "patch", "batch": "batch"}
LINES = {"PyTorch": "o-", "OpenVINO": "s--"}


def main() -> None:
    lines = (RESULTS / "scaling.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    rows = [row for row in rows if row["sweep"] in NAMES]
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for runtime, style in LINES.items():
        of_runtime = [row for row in rows if row["runtime"] == runtime]
        span = np.array([min(row["macs"] for row in of_runtime), max(row["macs"] for row in of_runtime)]) / 1e9
        rate = of_runtime[0]["expected_ms"] / of_runtime[0]["macs"] * 1e9
        left.plot(span, span * rate, style[1:], color="#b9c0c8", label=f"{runtime}, one rate for all")
        for sweep, name in NAMES.items():
            of_sweep = [row for row in of_runtime if row["sweep"] == sweep]
            if of_sweep:
                macs = [r["macs"] / 1e9 for r in of_sweep]
                megapixels = [r["side"] ** 2 * r["batch"] / 1e6 for r in of_sweep]
                label = f"{runtime}, {name}"
                left.plot(macs, [r["ms"] for r in of_sweep], style, color=COLOURS[sweep], label=label, markersize=4)
                memory = [r["memory"] / 1e6 for r in of_sweep]
                right.plot(megapixels, memory, style[0], color=COLOURS[sweep], label=label, markersize=4)
    sizes = [row for row in rows if row["sweep"] == "side" and row["runtime"] == "PyTorch"]
    pixels = [row["side"] ** 2 / 1e6 for row in sizes]
    right.plot(pixels, [row["whole_peak"] / 1e6 for row in sizes], "--", color="#b9c0c8", label="tables, not in strips")
    right.plot(pixels, [row["plan_peak"] / 1e6 for row in sizes], color="#b9c0c8", label="tables, as run")
    left.set(xscale="log", yscale="log", xlabel="GMAC per image, by the plan", ylabel="milliseconds per image")
    right.set(xscale="log", yscale="log", xlabel="megapixels at once", ylabel="MB")
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    save(figure, "scaling", dpi=110)


if __name__ == "__main__":
    main()
