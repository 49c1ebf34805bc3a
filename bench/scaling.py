"""How time and memory grow: `python -m bench.scaling --output bench/results/scaling.jsonl`.

The preset `paper`'s networks with random weights, float32, by `Engine.score` from uint8 pixels to the anomaly map, over
image size, stride, patch, batch and threads, one at a time: in PyTorch, where large images run in strips, and in
OpenVINO, whose graph is for one image and is not cut. Each point is a fresh process, so that its memory is its own:
seconds per image, the median of its runs after one that is not counted; the peak memory, less the peak before it had a
backend; and its plan's multiply-adds and bytes. A point that does not give the loop's numbers ends the command;
`docs/pictures/scaling.py` draws the rows.
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

from bench.harness.environment import environment

ROOT = Path(__file__).resolve().parents[1]
# In the order of `bench.harness.scaling_point`'s arguments.
BASE: dict[str, int] = {"side": 256, "stride": 8, "patch": 32, "batch": 1, "threads": 2}
SHARED: dict[str, tuple[int, ...]] = {"stride": (32, 16, 8, 4), "patch": (16, 32, 48, 64, 96), "threads": (1, 2)}
SWEEPS: dict[str, dict[str, tuple[int, ...]]] = {
    "PyTorch": {"side": (256, 384, 512, 1024, 2048, 4096), "batch": (1, 2, 4, 8), **SHARED},
    "OpenVINO": {"side": (256, 384, 512, 1024), **SHARED},
}


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="Rows are written there as JSON lines.")],
    runtime: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(SWEEPS)}; both if none.")] = None,
    runs: int = 5,
) -> None:
    """Measure all points, write them, and print them with the time that their multiply-adds predict."""
    rows: list[dict[str, Any]] = []
    console = Console(width=120)
    for name in runtime or SWEEPS:
        progress = track([*points(name)], name, console=Console(stderr=True))
        measured = [measure(name, sweep, point, runs) for sweep, point in progress]
        rate = fitted(measured)
        rows += [row | {"expected_ms": round(row["macs"] / rate * 1e3, 2)} for row in measured]
        console.print(as_table(name, rows[-len(measured) :]))
        console.print(f"expected: {rate / 1e9:.1f} billion multiply-adds per second, the points' median on two threads")
    output.parent.mkdir(parents=True, exist_ok=True)
    recorded = environment()
    output.write_text("".join(json.dumps(recorded | row) + "\n" for row in rows), encoding="utf-8")


def as_table(title: str, rows: list[dict[str, Any]]) -> Table:
    """One line per point."""
    columns = ("sweep", "at", "locations", "GMAC", "ms per image", "expected", "strips", "peak MB", "plan MB")
    table = Table(*columns, title=title)
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
    repeats = max(1, runs if point["side"] <= 512 else runs // 3)
    numbers = [*map(str, point.values()), str(repeats)]
    with tempfile.TemporaryDirectory() as scratch:
        arguments = [*numbers, str(Path(scratch) / "model")]
        if runtime == "PyTorch":
            figures = _run_point("pytorch", arguments)
        else:
            figures = _run_point("export", arguments) | _run_point("openvino", arguments)
    seconds = figures.pop("seconds")
    return {"runtime": runtime, "sweep": sweep, **point, "ms": round(median(seconds) * 1e3, 2), **figures}


def _run_point(mode: str, arguments: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.harness.scaling_point", mode, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def fitted(rows: list[dict[str, Any]]) -> float:
    """Multiply-adds per second: the median over the points with as many threads as BASE."""
    return float(np.median([row["macs"] / row["ms"] * 1e3 for row in rows if row["threads"] == BASE["threads"]]))


if __name__ == "__main__":
    typer.run(main)
