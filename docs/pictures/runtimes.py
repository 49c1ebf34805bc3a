"""Draw docs/pictures/runtimes.png from the last run in the rows of `bench.runtimes`: milliseconds per image, log scale.

One bar per method: OpenVINO in float32, with bfloat16 as a mark; ours also with our kernels; and the loops of our
presets, in PyTorch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from picture import RESULTS, save

COLOURS = {"loop": "#b9c0c8", "ours": "#e08a5b", "kernels": "#c2410c", "peer": "#475569"}
NAMES = {"loop": "{}: the loop", "ours": "{}", "kernels": "{}, our kernels", "peer": "{}"}


def last_run(path: Path) -> list[dict[str, Any]]:
    """The last run's rows of one 256x256 image at stride 8."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    last = [row for row in rows if row.get("date") == rows[-1]["date"]]
    return [row for row in last if (row["size"], row["stride"], row["batch"]) == (256, 8, 1)]


def kind(row: dict[str, Any]) -> str:
    if row["loop_speedup"] is None:
        return "peer"
    return {"loop, PyTorch": "loop", "OpenVINO, plugins": "kernels"}.get(row["runtime"], "ours")


def main() -> None:
    run = last_run(RESULTS / "runtimes.jsonl")
    half = {(row["method"], row["runtime"]): row["ms"] for row in run if row["precision"] == "bf16"}
    full = [row for row in run if row["precision"] == "fp32"]
    rows = [row for row in full if row["runtime"].startswith("OpenVINO") or kind(row) == "loop"]
    rows.sort(key=lambda row: -row["ms"])
    figure = Figure(figsize=(9, 0.3 * len(rows) + 0.9), layout="constrained")
    axis = figure.subplots()
    names = [NAMES[kind(row)].format(row["method"]) for row in rows]
    axis.barh(names, [row["ms"] for row in rows], color=[COLOURS[kind(row)] for row in rows])
    for position, row in enumerate(rows):
        axis.text(
            row["ms"] * 1.06, position, f"{row['ms']:,.0f}" if row["ms"] >= 100 else f"{row['ms']:.1f}", va="center"
        )
        if kind(row) != "loop":
            axis.plot(
                half[row["method"], row["runtime"]], position, "|", color="white", markersize=11, markeredgewidth=2
            )
    axis.set(xscale="log", xlim=(min(half.values()) * 0.7, max(row["ms"] for row in rows) * 2))
    axis.set_xlabel("milliseconds per image, log scale: OpenVINO float32 (white mark: bfloat16), loops in PyTorch")
    axis.spines[["top", "right"]].set_visible(False)
    save(figure, "runtimes", dpi=110)


if __name__ == "__main__":
    main()
