"""How time and memory grow: `python -m bench.scaling --output bench/results/scaling.jsonl`.

The preset `paper`'s networks with random weights, float32, from uint8 pixels to scores, over image size, stride, patch,
batch and threads, one at a time: in PyTorch, where large images run in strips, and in OpenVINO, whose graph is for one
image and is not cut. Each point is a fresh process, so that its memory is its own: seconds an image, the median of its
runs after one that is not counted; the most memory that it held, less what it held before it had a model; and what its
plan says, multiply-adds and bytes. A point that does not give the loop's numbers ends it; `docs/pictures/scaling.py`
draws the rows.
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

from bench.harness.environment import machine

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
        told = _told("pytorch", numbers)
    else:
        with tempfile.TemporaryDirectory() as place:
            arguments = [*numbers, str(Path(place) / "graph.xml")]
            told = _told("export", arguments) | _told("openvino", arguments)
    seconds = told.pop("seconds")
    return {"runtime": runtime, "sweep": sweep, **point, "ms": round(median(seconds) * 1e3, 2), **told}


def _told(what: str, arguments: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.harness.scaling_point", what, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def fitted(rows: list[dict[str, Any]]) -> float:
    """Multiply-adds a second: the median over the points on as many threads as BASE has."""
    return float(np.median([row["macs"] / row["ms"] * 1e3 for row in rows if row["threads"] == BASE["threads"]]))


if __name__ == "__main__":
    typer.run(main)
