"""How time and memory grow: `python -m bench.scaling --output bench/results/scaling.jsonl`.

The preset `paper`'s networks with random weights in PyTorch, float32, from uint8 pixels to scores, over image size,
stride, patch, batch and threads, one at a time. Each point is a fresh process, so that its memory is its own: seconds
an image, the median of its runs after one that is not counted; the most memory that it held, less what it held before;
and what its plan says, multiply-adds and bytes. `docs/pictures/scaling.py` draws it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.machine import machine

BASE: dict[str, int] = {"side": 256, "stride": 8, "patch": 32, "batch": 1, "threads": 2}
SWEEPS: dict[str, tuple[int, ...]] = {
    "side": (256, 384, 512, 1024, 2048),
    "stride": (32, 16, 8, 4),
    "patch": (16, 32, 48, 64, 96),
    "batch": (1, 2, 4, 8),
    "threads": (1, 2),
}
CODE = """
import json, resource, sys, time
import numpy as np, torch
from glance_fast.backends.torch_backend import TorchBackend
from glance_fast.config import ModelConfig
from glance_fast.dense_strips import StripPass
from glance_fast.nets.model import GlanceModel

def held():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

side, stride, patch, batch, threads, runs = map(int, sys.argv[1:])
torch.set_num_threads(threads)
torch.manual_seed(0)
model = GlanceModel(ModelConfig(image_size=(side, side), stride=stride, patch=patch)).eval().requires_grad_(False)
before = held()
backend = TorchBackend(model)
dense = backend.dense
plans = [strip.plan for strip in dense.strips] if isinstance(dense, StripPass) else [dense.plan]
images = list(np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8))
seconds = []
for run in range(runs + 1):
    start = time.perf_counter()
    backend.grids(images)
    if run:
        seconds.append((time.perf_counter() - start) / batch)
macs = sum(plan.macs for plan in plans) + model.local_net.macs((side, side), stride)
print(json.dumps({
    "seconds": seconds, "memory": held() - before, "locations": dense.plan.locations, "macs": macs,
    "plan_peak": max(plan.peak for plan in plans), "whole_peak": dense.plan.peak, "strips": len(plans),
}))
"""


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="Rows are written there as JSON lines.")],
    runs: int = 5,
) -> None:
    """Measure all points, write them, and print them beside what their multiply-adds let one expect."""
    rows = [measure(name, point, runs) for name, point in track([*points()], "Points", console=Console(stderr=True))]
    pace = fitted(rows)
    table = Table("sweep", "at", "locations", "GMAC", "ms an image", "expected", "strips", "MB held", "MB of the plan")
    for row in rows:
        row["expected_ms"] = round(row["macs"] / pace * 1e3, 2)
        cells = (row["sweep"], row[row["sweep"]], f"{row['locations']:,}", f"{row['macs'] / 1e9:.2f}")
        times = (f"{row['ms']:.1f}", f"{row['expected_ms']:.1f}", row["strips"])
        table.add_row(*map(str, (*cells, *times, f"{row['memory'] / 1e6:.0f}", f"{row['plan_peak'] / 1e6:.0f}")))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("".join(json.dumps({**row, **machine()}) + "\n" for row in rows), encoding="utf-8")
    console = Console(width=110)
    console.print(table)
    console.print(f"expected: {pace / 1e9:.1f} billion multiply-adds a second, the points' median on two threads")


def points() -> Iterator[tuple[str, dict[str, int]]]:
    """Every sweep's points, the others as in BASE."""
    for name, values in SWEEPS.items():
        for value in values:
            yield name, BASE | {name: value}


def measure(sweep: str, point: dict[str, int], runs: int) -> dict[str, Any]:
    """One point, in a process of its own."""
    few = max(1, runs if point["side"] <= 512 else runs // 3)
    command = [sys.executable, "-c", CODE, *map(str, point.values()), str(few)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    seconds = told.pop("seconds")
    return {"sweep": sweep, **point, "ms": round(median(seconds) * 1e3, 2), **told}


def fitted(rows: list[dict[str, Any]]) -> float:
    """Multiply-adds a second: the median over the points on as many threads as BASE has."""
    return float(np.median([row["macs"] / row["ms"] * 1e3 for row in rows if row["threads"] == BASE["threads"]]))


if __name__ == "__main__":
    typer.run(main)
