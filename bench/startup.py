"""Size of the base install, and seconds to its first score: `python -m bench.startup MODEL IMAGE`.

It makes a new environment, installs this checkout into it without extras, and scores there: seconds to import the
engine, to load the model and to score the first image, in a fresh process each time, for each runtime that the model
has an export for. Backends that need an extra, such as PyTorch, run in the environment of this command.
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

from bench.harness.environment import append_rows
from glance_fast.backends.registry import RUNTIME_DEVICE, installed
from glance_fast.storage.export_record import RUNTIME_FORMAT, exported_precisions

ROOT = Path(__file__).resolve().parent.parent
HARNESS = ROOT / "bench" / "harness"


def main(
    model: Path,
    image: Path,
    runs: Annotated[int, typer.Option(help="Fresh processes per backend.")] = 5,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file of JSON lines, appended to.")] = None,
) -> None:
    """Print the table and the base install's size, and append them to a file."""
    console = Console(width=110)
    pythons = {"torch": Path(sys.executable)}
    extra = [name for name in filter(installed, RUNTIME_FORMAT) if RUNTIME_DEVICE[name] == "cpu"]
    pythons |= dict.fromkeys(extra, Path(sys.executable))
    with tempfile.TemporaryDirectory() as scratch:
        with console.status("installing"):
            base = install(Path(scratch) / "base")
        packages = sizes(base)
        pythons["openvino"] = base
        rows = []
        for name, python in pythons.items():
            if name == "torch" or "fp32" in exported_precisions(model, RUNTIME_FORMAT[name]):
                with console.status(f"{name}: {runs} runs"):
                    row = measure([run(python, model, name, image) for _ in range(runs)])
                installation = {"installation": "base"} if python == base else {"installation": "development"}
                sizes_of_base = {"install_bytes": {k.lower(): v for k, v in packages.items()}} if python == base else {}
                rows.append({"backend": name, "model": model.resolve().name, **installation, **row, **sizes_of_base})
    print_table(console, rows, packages)
    if output is not None:
        append_rows(output, rows)


def measure(processes: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the seconds of a backend's processes, their number, and the score that they gave."""
    parts = [median(column) for column in zip(*(process["seconds"] for process in processes), strict=True)]
    total = median(sum(process["seconds"]) for process in processes)
    seconds = dict(zip(("import_s", "load_s", "score_s", "total_s"), (*parts, total), strict=True))
    rounded = {name: round(value, 4) for name, value in seconds.items()}
    return {"runs": len(processes), **rounded, "score": processes[0]["score"]}


def print_table(console: Console, rows: list[dict[str, Any]], packages: dict[str, int]) -> None:
    """One line per backend, and the largest packages of the base install."""
    table = Table("backend", "installation", "import s", "load s", "first score s", "total s", "score")
    for row in rows:
        times = (f"{row[name]:.2f}" for name in ("import_s", "load_s", "score_s", "total_s"))
        table.add_row(row["backend"], row["installation"], *times, f"{row['score']:.6f}")
    console.print(table)
    largest = sorted(packages, key=lambda name: -packages[name])[:4]
    listed = ", ".join(f"{name} {packages[name] / 1e6:.0f} MB" for name in largest)
    console.print(f"base install: {len(packages)} packages, {sum(packages.values()) / 1e6:.0f} MB ({listed})")


def install(folder: Path) -> Path:
    """Make a new environment with the base install of this checkout; return its Python."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    source = folder / "source"  # a copy: building leaves folders that a later build would pack
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info")
    shutil.copytree(ROOT, source, symlinks=True, ignore=ignored)
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
