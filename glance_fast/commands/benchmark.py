"""How fast a model is on this machine: every backend that can run it, in turn, on the same images."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from glance_fast.backends.base import cpu_threads
from glance_fast.backends.registry import PLACES, installed, runnable
from glance_fast.commands.energy import EnergyMeter, held_by
from glance_fast.data.images import Pixels
from glance_fast.engine import Engine
from glance_fast.errors import BackendError
from glance_fast.storage.export_record import command
from glance_fast.version import __version__

# How far a map may be from the first backend's, as a share of its largest value, for its time to count.
TOLERANCES = {"fp32": 1e-5, "bf16": 0.05, "fp16": 0.01, "int8": 0.5}
# One image in a process of its own, whose memory is the backend's alone.
ALONE = """
import sys
import numpy as np
from pathlib import Path
from glance_fast.engine import Engine
from glance_fast.commands.energy import most_held

engine = Engine.load(Path(sys.argv[1]), *sys.argv[2:])
engine.score(np.zeros((*engine.config.image_size, 3), np.uint8))
print(most_held())
"""


@dataclass(frozen=True)
class Timed:
    """One backend's time of `Engine.score` an image, in milliseconds; `difference` is its map's from the first's.

    `joules` an image are all processors', and `memory` the most bytes of host memory that a process holds which scores
    one image and does nothing else; each None where the system does not tell.
    """

    backend: str
    precision: str
    images: int
    p50: float
    p95: float
    p99: float
    images_per_second: float
    load_seconds: float
    difference: float
    joules: float | None
    memory: int | None


def time_backends(folder: Path, images: Sequence[Pixels], turns: int, progress: bool = True) -> list[Timed]:
    """Time every backend that can run the model in `folder`, image by image, in turn; on noise without images.

    The first is PyTorch where it is installed, and the others must give its maps. Raises BackendError when one does
    not, or when nothing can run the model, and what `Engine.load` and `Engine.score` raise.
    """
    engines, loads = _engines(folder)
    size = next(iter(engines.values())).config.image_size
    images = images or [np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)]
    maps = {key: engine.score(images[0]).map for key, engine in engines.items()}
    first = next(iter(maps.values()))
    apart = {key: float(np.abs(one - first).max() / np.abs(first).max()) for key, one in maps.items()}
    for (backend, precision), difference in apart.items():
        if difference > TOLERANCES[precision]:
            raise BackendError(
                f"{backend} at {precision} gives maps that differ by {difference:.1e} of the largest value, at most "
                f"{TOLERANCES[precision]:g} is right; nothing was timed: export the model again"
            )
    taken: dict[tuple[str, str], list[tuple[float, float | None]]] = {key: [] for key in engines}
    meter = EnergyMeter()
    rounds = [(turn, image) for turn in range(turns) for image in images]
    for _, image in track(rounds, "Timing", console=Console(stderr=True), disable=not progress, transient=True):
        for key, engine in engines.items():
            seconds, joules = meter.measure(partial(engine.score, image))
            taken[key].append((seconds * 1e3, joules))
    return [
        Timed(*key, **_summary(turns), load_seconds=loads[key], difference=apart[key], memory=_held(folder, key))
        for key, turns in taken.items()
    ]


def _engines(folder: Path) -> tuple[dict[tuple[str, str], Engine], dict[tuple[str, str], float]]:
    wanted = runnable(folder)
    if installed("torch"):
        wanted.insert(0, ("torch", "fp32"))
    if not wanted:
        raise BackendError(f"nothing here can run {folder}; export it first: {command(folder, 'openvino', 'fp32')}")
    engines, loads = {}, {}
    for key in wanted:
        start = time.perf_counter()
        engines[key] = Engine.load(folder, key[0], PLACES.get(key[0], "cpu"), key[1])
        loads[key] = time.perf_counter() - start
    return engines, loads


def _summary(turns: list[tuple[float, float | None]]) -> dict[str, Any]:
    times = [ms for ms, _ in turns]
    joules = [used for _, used in turns if used is not None]
    p50, p95, p99 = (float(value) for value in np.percentile(times, [50, 95, 99]))
    pace = {"images": len(times), "images_per_second": 1e3 * len(times) / sum(times)}
    return {"p50": p50, "p95": p95, "p99": p99, **pace, "joules": mean(joules) if joules else None}


def _held(folder: Path, key: tuple[str, str]) -> int | None:
    backend, precision = key
    command = [sys.executable, "-c", ALONE, str(folder), backend, PLACES.get(backend, "cpu"), precision]
    try:
        return held_by(command)
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise BackendError(
            f"{backend} at {precision} cannot score one image in a process of its own: {reason}"
        ) from None


def as_lines(rows: Sequence[Timed], folder: Path) -> str:
    """The rows as JSON lines, each with the machine and the model that it is of."""
    facts = {
        "model": folder.resolve().name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "cores": cpu_threads(),
        "python": platform.python_version(),
        "glance_fast": __version__,
    }
    return "".join(json.dumps({**asdict(row), **facts}) + "\n" for row in rows)
