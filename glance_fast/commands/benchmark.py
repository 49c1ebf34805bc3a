"""How fast a model is on this machine: every backend that can run it, interleaved, on the same images."""

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
from glance_fast.backends.registry import RUNTIME_DEVICE, installed, runnable
from glance_fast.backends.tolerances import relative_error, tolerance
from glance_fast.commands.energy import EnergyMeter, RunCost
from glance_fast.commands.peak_memory import peak_rss_of
from glance_fast.data.images import ImageInput
from glance_fast.engine import Engine
from glance_fast.errors import BackendError
from glance_fast.storage.export_record import export_command
from glance_fast.version import __version__

# A backend's name and the precision that it runs at.
BackendKey = tuple[str, str]


@dataclass(frozen=True)
class BackendTiming:
    """Times of `Engine.score` with one backend, in milliseconds per image.

    `difference` is the relative error of its map from the first backend's, and `within` the tolerance that it was
    checked against. `joules` per image are those of all processors, and `memory` is the peak resident memory in bytes
    of a process that scores one image and does nothing else; each None where the system does not report it.
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
    within: float
    joules: float | None
    memory: int | None


def time_backends(folder: Path, images: Sequence[ImageInput], turns: int, progress: bool = True) -> list[BackendTiming]:
    """Time every backend that can run the model in `folder`, interleaved per image; on noise without images.

    The first is PyTorch where it is installed, and the others must give its maps within their precision's tolerance.
    Raises BackendError where a map differs by more, or where nothing can run the model, and what `Engine.load` and
    `Engine.score` raise.
    """
    engines, loads = _engines(folder)
    size = next(iter(engines.values())).config.image_size
    images = images or [np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)]
    differences = _checked_differences(engines, images[0])
    runs: dict[BackendKey, list[RunCost]] = {key: [] for key in engines}
    meter = EnergyMeter()
    rounds = [(turn, image) for turn in range(turns) for image in images]
    for _, image in track(rounds, "Timing", console=Console(stderr=True), disable=not progress, transient=True):
        for key, engine in engines.items():
            runs[key].append(meter.measure(partial(engine.score, image)))
    return [
        BackendTiming(
            *key,
            **_summary(costs),
            load_seconds=loads[key],
            difference=differences[key],
            within=tolerance("trained map", key[1]),
            memory=_peak_memory(folder, key),
        )
        for key, costs in runs.items()
    ]


def _engines(folder: Path) -> tuple[dict[BackendKey, Engine], dict[BackendKey, float]]:
    """An engine per backend and precision that can run here, and the seconds that loading it took."""
    keys = runnable(folder)
    if installed("torch"):
        keys.insert(0, ("torch", "fp32"))
    if not keys:
        raise BackendError(
            f"nothing here can run {folder}; export it first: {export_command(folder, 'openvino', 'fp32')}"
        )
    engines, loads = {}, {}
    for key in keys:
        start = time.perf_counter()
        engines[key] = Engine.load(folder, key[0], RUNTIME_DEVICE.get(key[0], "cpu"), key[1])
        loads[key] = time.perf_counter() - start
    return engines, loads


def _checked_differences(engines: dict[BackendKey, Engine], image: ImageInput) -> dict[BackendKey, float]:
    """Relative error of each backend's map from the first backend's; raises BackendError above the tolerance."""
    maps = {key: engine.score(image).map for key, engine in engines.items()}
    reference, differences = next(iter(maps.values())), dict[BackendKey, float]()
    for (backend, precision), anomaly_map in maps.items():
        try:
            difference = relative_error(anomaly_map, reference)
        except BackendError as error:
            raise BackendError(f"{backend} at {precision}: {error}; nothing was timed") from None
        within = tolerance("trained map", precision)
        if difference > within:
            raise BackendError(
                f"{backend} at {precision} gives maps that differ by {difference:.1e} of the largest value, at most "
                f"{within:g} is right; nothing was timed: export the model again"
            )
        differences[backend, precision] = difference
    return differences


def _summary(costs: list[RunCost]) -> dict[str, Any]:
    times = [cost.seconds * 1e3 for cost in costs]
    energies = [cost.joules for cost in costs if cost.joules is not None]
    p50, p95, p99 = (float(value) for value in np.percentile(times, [50, 95, 99]))
    rate = {"images": len(times), "images_per_second": 1e3 * len(times) / sum(times)}
    return {"p50": p50, "p95": p95, "p99": p99, **rate, "joules": mean(energies) if energies else None}


def _peak_memory(folder: Path, key: BackendKey) -> int | None:
    backend, precision = key
    arguments = [str(folder), backend, RUNTIME_DEVICE.get(backend, "cpu"), precision]
    try:
        return peak_rss_of([sys.executable, "-m", "glance_fast.commands.peak_memory", *arguments])
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise BackendError(
            f"{backend} at {precision} cannot score one image in a process of its own: {reason}"
        ) from None


def as_lines(rows: Sequence[BackendTiming], folder: Path) -> str:
    """The rows as JSON lines, each with the machine and the model that it is of."""
    context = {
        "model": folder.resolve().name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "cores": cpu_threads(),
        "python": platform.python_version(),
        "glance_fast": __version__,
    }
    return "".join(json.dumps({**asdict(row), **context}) + "\n" for row in rows)
