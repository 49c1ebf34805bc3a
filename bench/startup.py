"""What the base install takes, and how soon its first score is there: `python -m bench.startup MODEL IMAGE`.

It makes a new environment, installs this checkout into it without extras, and scores there: seconds to import the
engine, to load the model and to the first score, in a fresh process each time, for each runtime that the model has an
export for. What needs an extra, PyTorch among it, runs in the environment that this command runs in.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.harness.environment import environment
from glance_fast.backends.registry import RUNTIME_DEVICE, installed
from glance_fast.storage.export_record import RUNTIME_FORMAT, exported_precisions

ROOT = Path(__file__).resolve().parent.parent
HARNESS = ROOT / "bench" / "harness"


def main(model: Path, image: Path, runs: Annotated[int, typer.Option(help="Fresh processes a backend.")] = 5) -> None:
    """Print the table and the base install's size."""
    console = Console(width=110)
    here = {"torch": Path(sys.executable)}
    here |= {name: Path(sys.executable) for name in filter(installed, RUNTIME_FORMAT) if RUNTIME_DEVICE[name] == "cpu"}
    with tempfile.TemporaryDirectory() as place:
        with console.status("installing"):
            fresh = install(Path(place) / "base")
        packages = sizes(fresh)
        here["openvino"] = fresh
        table = Table("backend", "environment", "import s", "load s", "first score s", "together s", "score")
        for name, python in here.items():
            if name == "torch" or "fp32" in exported_precisions(model, RUNTIME_FORMAT[name]):
                with console.status(f"{name}: {runs} runs"):
                    seen = [run(python, model, name, image) for _ in range(runs)]
                parts = [median(column) for column in zip(*(one["seconds"] for one in seen), strict=True)]
                times = (*parts, median(sum(one["seconds"]) for one in seen))
                installation = "base install" if python == fresh else "development"
                table.add_row(name, installation, *(f"{value:.2f}" for value in times), f"{seen[0]['score']:.6f}")
    console.print(table)
    first = sorted(packages, key=lambda name: -packages[name])[:4]
    largest = ", ".join(f"{name} {packages[name] / 1e6:.0f} MB" for name in first)
    console.print(f"base install: {len(packages)} packages, {sum(packages.values()) / 1e6:.0f} MB ({largest})")
    console.print(environment())


def install(place: Path) -> Path:
    """A new environment with the base install of this checkout; gives its Python."""
    venv.create(place, with_pip=True)
    python = place / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    source = place / "source"  # a copy: building leaves folders that a later build would pack
    left = shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info")
    shutil.copytree(ROOT, source, symlinks=True, ignore=left)
    subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), str(source)], check=True)
    return python


def run(python: Path, model: Path, backend: str, image: Path) -> dict[str, Any]:
    """One fresh process: `seconds` of its parts, whether it imported PyTorch, its score."""
    command = [str(python), "-I", str(HARNESS / "first_score.py"), str(model.resolve()), backend, str(image.resolve())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def sizes(python: Path) -> dict[str, int]:
    """Bytes of every package in an environment but pip and setuptools."""
    command = [str(python), "-I", str(HARNESS / "package_sizes.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured: dict[str, int] = json.loads(done.stdout)
    return {name: size for name, size in measured.items() if name not in ("pip", "setuptools")}


if __name__ == "__main__":
    typer.run(main)
