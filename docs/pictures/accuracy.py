"""Draw docs/pictures/accuracy.png from the rows of `bench.accuracy` and `bench.latency`: accuracy against cost."""

from __future__ import annotations

import json
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from picture import RESULTS, save

NAMES = {"patchcore": "PatchCore", "padim": "PaDiM"}
OURS, PEERS = "#c2410c", "#475569"
# The test images that no setting was chosen by (`bench.harness.splits`).
PART = "reporting"
COSTS = {"gmac": "multiply-adds per image, GMAC", "ms": "time per image in PyTorch on 2 cores, ms"}
MEASURES = {"image_auroc": "image AUROC", "aupro": "AUPRO (limit 0.3)"}


def draw(axis: Axes, rows: list[dict[str, Any]], cost: str, measure: str) -> None:
    for method in dict.fromkeys(row["method"] for row in rows):
        of_method = [row for row in rows if row["method"] == method]
        x, y = float(of_method[0][cost]), mean(row["parts"][PART][measure] for row in of_method)
        color, marker = (PEERS, "s") if method in NAMES else (OURS, "o")
        axis.scatter(x, y, s=60, color=color, marker=marker, zorder=3)
        # The labels of `fast` and `accurate` would overlap.
        offset = {"xytext": (-7, -3), "ha": "right"} if method == "fast" else {"xytext": (7, -3)}
        axis.annotate(NAMES.get(method, method), (x, y), textcoords="offset points", color=color, **offset)
    axis.grid(alpha=0.3)
    axis.margins(x=0.35, y=0.25)
    axis.set_xlim(left=0)


def rows_of(file: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((RESULTS / file).read_text(encoding="utf-8"))
    return rows


def main() -> None:
    rows = [row for row in rows_of("mt.json") if "alone" not in row["method"]]
    ms = {row["method"]: row["ms"] for row in rows_of("mt-latency.json")}
    rows = [row | {"ms": ms[row["method"]]} for row in rows]
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(len(MEASURES), len(COSTS), squeeze=False)
    for line, (measure, named) in zip(axes, MEASURES.items(), strict=True):
        for axis, cost in zip(line, COSTS, strict=True):
            draw(axis, rows, cost, measure)
            axis.set(ylabel=named)
    for axis, label in zip(axes[-1], COSTS.values(), strict=True):
        axis.set(xlabel=label)
    figure.suptitle(f"{rows[0]['category']}, {rows[0]['size']}, {PART} part of the test images")
    save(figure, "accuracy", dpi=110)


if __name__ == "__main__":
    main()
