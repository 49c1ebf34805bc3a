"""How soon the first score is there, and what the base install takes: `python -m bench.startup MODEL IMAGE`.

Each backend that the model has an export for, and PyTorch, in a fresh process each time: seconds to import the engine,
to load the model, and to the first score, the median of some runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table

from bench.machine import machine
from glance_fast.exports import RUNS, exported

CODE = """
import json, sys, time
start = time.perf_counter()
from glance_fast.engine import Engine
imported = time.perf_counter()
engine = Engine.load(sys.argv[1], sys.argv[2])
loaded = time.perf_counter()
engine.score(sys.argv[3])
print(json.dumps([imported - start, loaded - imported, time.perf_counter() - loaded]))
"""


def main(model: Path, image: Path, runs: Annotated[int, typer.Option(help="Fresh processes a backend.")] = 5) -> None:
    """Print the table and the base install's size."""
    table = Table("backend", "import s", "load s", "first score s", "together s")
    backends = ["torch", *(backend for backend, form in RUNS.items() if "fp32" in exported(model, form))]
    for backend in backends:
        times = [_run(model, backend, image) for _ in range(runs)]
        parts = [median(column) for column in zip(*times, strict=True)]
        table.add_row(backend, *(f"{value:.2f}" for value in (*parts, median(sum(row) for row in times))))
    console = Console(width=100)
    console.print(table)
    sizes = {name: size(package) for name, package in sorted(closure("glance-fast").items())}
    largest = ", ".join(f"{name} {sizes[name] / 1e6:.0f} MB" for name in sorted(sizes, key=lambda n: -sizes[n])[:4])
    console.print(f"base install: {len(sizes)} packages, {sum(sizes.values()) / 1e6:.0f} MB ({largest})")
    console.print(machine())


def _run(model: Path, backend: str, image: Path) -> list[float]:
    command = [sys.executable, "-c", CODE, str(model), backend, str(image)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds: list[float] = json.loads(done.stdout)
    return seconds


def closure(name: str, found: dict[str, Distribution] | None = None) -> dict[str, Distribution]:
    """A package without its extras and all that it needs, as installed here, by their names."""
    found = {} if found is None else found
    key = name.lower().replace("_", "-")
    if key not in found:
        found[key] = distribution(name)
        for need in map(Requirement, found[key].requires or []):
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                closure(need.name, found)
    return found


def size(package: Distribution) -> int:
    """Bytes of a package's files."""
    paths = (Path(str(package.locate_file(file))) for file in package.files or [])
    return sum(path.stat().st_size for path in paths if path.is_file())


if __name__ == "__main__":
    typer.run(main)
