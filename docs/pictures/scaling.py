"""Draws docs/pictures/scaling.png from the rows of `bench.scaling`: time and memory against what the plan says.

    python docs/pictures/scaling.py bench/results/scaling.jsonl
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

COLOURS = {"side": "#c2410c", "stride": "#0f766e", "patch": "#7c3aed", "batch": "#475569"}
NAMES = {"side": "image size", "stride": "stride", "patch": "patch", "batch": "batch"}


def main(source: Path) -> None:
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["sweep"] in NAMES]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    span = np.array([min(row["macs"] for row in rows), max(row["macs"] for row in rows)]) / 1e9
    pace = rows[0]["expected_ms"] / rows[0]["macs"] * 1e9
    left.plot(span, span * pace, color="#b9c0c8", label="one pace for all")
    for sweep, name in NAMES.items():
        mine = [row for row in rows if row["sweep"] == sweep]
        left.plot(
            [row["macs"] / 1e9 for row in mine], [row["ms"] for row in mine], "o-", color=COLOURS[sweep], label=name
        )
        right.plot(
            [row["side"] ** 2 * row["batch"] / 1e6 for row in mine], [row["memory"] / 1e6 for row in mine], "o",
            color=COLOURS[sweep], label=name,
        )  # fmt: skip
    sizes = [row for row in rows if row["sweep"] == "side"]
    pixels = [row["side"] ** 2 / 1e6 for row in sizes]
    right.plot(pixels, [row["whole_peak"] / 1e6 for row in sizes], "--", color="#b9c0c8", label="tables, not in strips")
    right.plot(pixels, [row["plan_peak"] / 1e6 for row in sizes], color="#b9c0c8", label="tables, as run")
    left.set(xscale="log", yscale="log", xlabel="GMAC an image, as the plan says", ylabel="milliseconds an image")
    right.set(xscale="log", yscale="log", xlabel="megapixels at once", ylabel="MB")
    for axis in (left, right):
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(Path(__file__).with_name("scaling.png"), dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
