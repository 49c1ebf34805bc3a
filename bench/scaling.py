"""How time and memory grow: `python -m bench.scaling --output bench/results/scaling.jsonl`.

The preset `paper`'s networks with random weights, float32, from uint8 pixels to scores, over image size, stride, patch,
batch and threads, one at a time: in PyTorch, where large images run in strips, and in OpenVINO, whose graph is for one
image and is not cut. Each point is a fresh process, so that its memory is its own: seconds an image, the median of its
runs after one that is not counted; the most memory that it held, less what it held before it had a model; and what its
plan says, multiply-adds and bytes. `docs/pictures/scaling.py` draws it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
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
SHARED: dict[str, tuple[int, ...]] = {"stride": (32, 16, 8, 4), "patch": (16, 32, 48, 64, 96), "threads": (1, 2)}
SWEEPS: dict[str, dict[str, tuple[int, ...]]] = {
    "PyTorch": {"side": (256, 384, 512, 1024, 2048, 4096), "batch": (1, 2, 4, 8), **SHARED},
    "OpenVINO": {"side": (256, 384, 512, 1024), **SHARED},
}
# Both know the point as numbers in BASE's order, the runs, and a file for the graph.
KNOWN = """
import json, sys, time
import numpy as np
from glance_fast.meters import most_held

side, stride, patch, batch, threads, runs = map(int, sys.argv[1:7])
images = list(np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8))

def timed(run, before):
    seconds = []
    for turn in range(runs + 1):
        start = time.perf_counter()
        run()
        if turn:
            seconds.append((time.perf_counter() - start) / batch)
    return {"seconds": seconds, "memory": (most_held() or 0) - (before or 0)}
"""
MODEL = """
import torch
from glance_fast.backends.torch_backend import TorchBackend
from glance_fast.config import ModelConfig
from glance_fast.dense_strips import StripPass
from glance_fast.nets.model import GlanceModel

torch.set_num_threads(threads)
torch.manual_seed(0)
model = GlanceModel(ModelConfig(image_size=(side, side), stride=stride, patch=patch)).eval().requires_grad_(False)
before = most_held()
backend = TorchBackend(model)
dense = backend.dense

def facts(plans):
    macs = sum(plan.macs for plan in plans) + model.local_net.macs((side, side), stride)
    peaks = {"plan_peak": max(plan.peak for plan in plans), "whole_peak": dense.plan.peak}
    return {"locations": dense.plan.locations, "macs": macs, **peaks, "strips": len(plans)}
"""
TORCH = """
plans = [strip.plan for strip in dense.strips] if isinstance(dense, StripPass) else [dense.plan]
print(json.dumps({**timed(lambda: backend.grids(images), before), **facts(plans)}))
"""
EXPORT = """
import openvino
from bench.runtimes import CALIBRATION
from glance_fast.export.pipeline import export_onnx

graph = openvino.Core().read_model(export_onnx(model, CALIBRATION).SerializeToString())
openvino.save_model(graph, sys.argv[7], compress_to_fp16=False)
print(json.dumps(facts([model.plan()])))
"""
GRAPH = """
import openvino
from bench.launch import in_openvino

before = most_held()
run = in_openvino(openvino.Core().read_model(sys.argv[7]), np.stack(images), "fp32", threads)
print(json.dumps(timed(run, before)))
"""


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="Rows are written there as JSON lines.")],
    runtime: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(SWEEPS)}; both if none.")] = None,
    runs: int = 5,
) -> None:
    """Measure all points, write them, and print them beside what their multiply-adds let one expect."""
    rows: list[dict[str, Any]] = []
    console = Console(width=120)
    for name in runtime or SWEEPS:
        todo = [*points(name)]
        some = [measure(name, sweep, point, runs) for sweep, point in track(todo, name, console=Console(stderr=True))]
        pace = fitted(some)
        rows += [row | {"expected_ms": round(row["macs"] / pace * 1e3, 2)} for row in some]
        console.print(as_table(name, rows[-len(some) :]))
        console.print(f"expected: {pace / 1e9:.1f} billion multiply-adds a second, the points' median on two threads")
    output.parent.mkdir(parents=True, exist_ok=True)
    facts = machine()
    output.write_text("".join(json.dumps(facts | row) + "\n" for row in rows), encoding="utf-8")


def as_table(title: str, rows: list[dict[str, Any]]) -> Table:
    """One line a point."""
    heads = ("sweep", "at", "locations", "GMAC", "ms an image", "expected", "strips", "MB held", "MB of the plan")
    table = Table(*heads, title=title)
    for row in rows:
        cells = (row["sweep"], row[row["sweep"]], f"{row['locations']:,}", f"{row['macs'] / 1e9:.2f}")
        times = (f"{row['ms']:.1f}", f"{row['expected_ms']:.1f}", row["strips"])
        table.add_row(*map(str, (*cells, *times, f"{row['memory'] / 1e6:.0f}", f"{row['plan_peak'] / 1e6:.0f}")))
    return table


def points(runtime: str) -> Iterator[tuple[str, dict[str, int]]]:
    """Every sweep's points, the others as in BASE."""
    for name, values in SWEEPS[runtime].items():
        for value in values:
            yield name, BASE | {name: value}


def measure(runtime: str, sweep: str, point: dict[str, int], runs: int) -> dict[str, Any]:
    """One point, in a process of its own."""
    few = max(1, runs if point["side"] <= 512 else runs // 3)
    numbers = [*map(str, point.values()), str(few)]
    if runtime == "PyTorch":
        told = _told(KNOWN + MODEL + TORCH, numbers)
    else:
        with tempfile.TemporaryDirectory() as place:
            arguments = [*numbers, str(Path(place) / "graph.xml")]
            told = _told(KNOWN + MODEL + EXPORT, arguments) | _told(KNOWN + GRAPH, arguments)
    seconds = told.pop("seconds")
    return {"runtime": runtime, "sweep": sweep, **point, "ms": round(median(seconds) * 1e3, 2), **told}


def _told(code: str, arguments: list[str]) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def fitted(rows: list[dict[str, Any]]) -> float:
    """Multiply-adds a second: the median over the points on as many threads as BASE has."""
    return float(np.median([row["macs"] / row["ms"] * 1e3 for row in rows if row["threads"] == BASE["threads"]]))


if __name__ == "__main__":
    typer.run(main)
