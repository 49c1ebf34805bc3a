"""Is a score the same after hours, from any thread, and does nothing grow? `make soak`, or `python -m bench.soak`.

Each backend, on one stream and on two, is loaded 40 times, and scores the same images from 64 threads until its share
of the time has passed. Every score and map is compared with the first of its case, bit for bit; memory, threads and
open files after the last load are compared with those after a tenth of the loads.
"""

from __future__ import annotations

import tempfile
import threading
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console

from bench.harness.environment import append_rows
from bench.harness.runners import Point, random_model, save_model
from glance_fast.engine import Engine
from glance_fast.export.export import export

# Backend and number of streams; PyTorch has one.
CASES = (("torch", 1), ("onnxruntime", 1), ("onnxruntime", 2), ("openvino", 1), ("openvino", 2))
LOADS, CALLERS, IMAGES = 40, 64, 4
# What may be more at the end than after a tenth of the loads: megabytes, threads, files.
LIMITS = {"memory_mb": 100.0, "threads": 4, "files": 4}
RESULTS = Path(__file__).parent / "results" / "soak.jsonl"
OF_PROCESS = Path("/proc/self")

Images = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True)
class State:
    """What a process holds: resident memory, threads and open files."""

    memory_mb: float
    threads: int
    files: int

    @classmethod
    def now(cls) -> State:
        """The state of this process, as Linux gives it."""
        time.sleep(0.5)  # threads that have ended leave Linux's list a little later
        pages = int((OF_PROCESS / "statm").read_text().split()[1])
        threads, files = (sum(1 for _ in (OF_PROCESS / name).iterdir()) for name in ("task", "fd"))
        return cls(round(pages * 4096 / 1e6, 1), threads, files)

    def grown(self, before: State) -> dict[str, float]:
        """What is more than before."""
        return {name: round(value - asdict(before)[name], 1) for name, value in asdict(self).items()}


@dataclass
class Count:
    """Scores so far, and how many of them were not the first one; counted by many threads."""

    scores: int = 0
    different: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def add(self, results: Sequence[Any], expected: Sequence[str]) -> None:
        """Compare results with the first ones."""
        different = sum(bits(result) != first for result, first in zip(results, expected, strict=True))
        with self._lock:
            self.scores += len(results)
            self.different += different


@dataclass(frozen=True)
class First:
    """The first results: of single images, and of all as a list, which PyTorch computes in one batch."""

    single: list[str]
    listed: list[str]


def bits(result: Any) -> str:
    """A score exactly, and a checksum of its map."""
    return f"{float(result.score).hex()} {zlib.crc32(np.asarray(result.map).tobytes())}"


def soak(folder: Path, backend: str, streams: int, images: Images, seconds: float) -> dict[str, Any]:
    """Load one backend, and score for some seconds in all; the row of it."""
    engine = Engine.load(folder, backend, streams=streams)
    first = First([bits(engine.score(image)) for image in images], [*map(bits, engine.score(list(images)))])
    count, before = Count(), State.now()
    started = time.monotonic()
    for load in range(1, LOADS + 1):
        engine = Engine.load(folder, backend, streams=streams)
        until = time.monotonic() + seconds / LOADS
        with ThreadPoolExecutor(CALLERS) as pool:
            calls = [pool.submit(score_until, engine, images, n, until, first, count) for n in range(CALLERS)]
            for call in calls:
                call.result()
        if load == LOADS // 10:
            before = State.now()
    return {
        "backend": backend,
        "streams": streams,
        "minutes": round((time.monotonic() - started) / 60, 2),
        "loads": LOADS,
        "callers": CALLERS,
        "scores": count.scores,
        "different": count.different,
        "grown": State.now().grown(before),
    }


def score_until(engine: Engine, images: Images, number: int, until: float, first: First, count: Count) -> None:
    """Score in one of the threads: lists where its number is even, so that streams are used, else single images."""
    index = number % IMAGES
    while time.monotonic() < until:
        if number % 2:
            count.add([engine.score(images[index])], [first.single[index]])
        else:
            count.add(engine.score(list(images)), first.listed)


def faults(row: dict[str, Any]) -> list[str]:
    """What a row has that must not be."""
    grown = [f"{name} grew by {value}" for name, value in row["grown"].items() if value > LIMITS[name]]
    if not row["scores"]:
        return ["nothing was scored: give it more minutes", *grown]
    return [f"{row['different']} scores differ"] * bool(row["different"]) + grown


def main(
    minutes: Annotated[float, typer.Option(help="Of scoring, all cases together.")] = 30.0,
    backend: Annotated[list[str] | None, typer.Option(help="One to soak, may be repeated; all if none.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="A file of JSON lines, appended to.")] = RESULTS,
) -> None:
    """Append a row per backend and number of streams; exit status 1 where a score differs or something grows."""
    console = Console(width=110)
    torch.set_num_threads(1)
    cases, rows = [case for case in CASES if not backend or case[0] in backend], []
    if not cases:
        raise typer.BadParameter(
            f"no backend of {', '.join(backend or ())}; legal are {', '.join(sorted({*dict(CASES)}))}"
        )
    with tempfile.TemporaryDirectory() as scratch:
        model = random_model("fast", Point(size=128, stride=32))
        folder = save_model(model, Path(scratch) / "model")
        for export_format in ("onnx", "openvino"):
            export(folder, export_format)
        images = [*np.random.default_rng(0).integers(0, 256, (IMAGES, *model.config.image_size, 3), np.uint8)]
        for name, streams in cases:
            rows.append(soak(folder, name, streams, images, minutes * 60 / len(cases)))
            console.print(rows[-1], "; ".join(faults(rows[-1])) or "no fault")
    append_rows(output, rows)
    if any(map(faults, rows)):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
