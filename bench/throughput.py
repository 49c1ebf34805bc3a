"""What is left of the engine's pace when files are read and results written: `python -m bench.throughput MODEL IMAGES`.

Images a second of the engine alone, on images decoded before, and of reading and scoring one after the other; of
`Engine.stream` on paths, with one stream and with as many as `glance-fast score` takes; of what that does, without and
with its pictures. All in turn, with medians of the turns, each as a share of the engine's own pace in its turn.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.harness.environment import machine
from glance_fast.commands.score_files import score_files
from glance_fast.data.datasets import expand
from glance_fast.data.images import read_image
from glance_fast.engine import Engine

REST = 0.5

Way = tuple[Engine, Callable[[Engine], object]]


def main(
    model: Path,
    images: list[str],
    backend: str = "auto",
    precision: str = "fp32",
    count: Annotated[int, typer.Option(help="Images a turn.")] = 100,
    turns: int = 6,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file that JSON lines are added to.")] = None,
) -> None:
    """Print the table, and add its rows to a file."""
    logging.disable(logging.INFO)
    engine, folder = (Engine.load(model, backend, precision=precision, streams=streams) for streams in (1, None))
    found = expand(images)
    paths = [found[i % len(found)] for i in range(count)]
    with tempfile.TemporaryDirectory() as place:
        ways = ways_of(engine, folder, paths, Path(place))
        seconds = taken_by(ways, turns)
    alone = seconds["engine alone, decoded images"]
    rows: list[dict[str, Any]] = [
        {
            "way": name,
            "images_per_second": round(count / median(taken), 2),
            "of_engine": round(median(a / b for a, b in zip(alone, taken, strict=True)), 3),
            "model": model.resolve().name,
            "backend": engine.backend.name,
            "precision": precision,
            "streams": ways[name][0].backend.streams,
            "side": "{}x{}".format(*read_image(paths[0]).shape[:2]),
            "count": count,
            "turns": turns,
            **machine(),
        }
        for name, taken in seconds.items()
    ]
    table = Table("way", "images a second", "of the engine's pace")
    for row in rows:
        table.add_row(row["way"], f"{row['images_per_second']}", f"{row['of_engine']:.0%}")
    Console(width=110).print(table)
    if output is not None:
        with output.open("a", encoding="utf-8") as lines:
            lines.writelines(json.dumps(row) + "\n" for row in rows)


def ways_of(engine: Engine, folder: Engine, paths: list[Path], place: Path) -> dict[str, Way]:
    """What is timed, by name: which engine, that of one stream or that of a folder, does what with all images."""
    pixels = [read_image(path) for path in paths]

    def score(by: Engine, overlays: str) -> object:
        return score_files(by, paths, place / f"{overlays}-{by.backend.streams}", overlays=overlays)

    return {
        "engine alone, decoded images": (engine, lambda by: [by.score(image) for image in pixels]),
        "read, then score, one by one": (engine, lambda by: [by.score(path) for path in paths]),
        "Engine.stream of paths": (engine, lambda by: list(by.stream(paths))),
        "Engine.stream, streams=None": (folder, lambda by: list(by.stream(paths))),
        "score without pictures": (folder, lambda by: score(by, "none")),
        "score with pictures of anomalous images": (folder, lambda by: score(by, "anomalous")),
        "score with pictures of all": (folder, lambda by: score(by, "all")),
        "the same with --streams 1": (engine, lambda by: score(by, "all")),
    }


def taken_by(ways: dict[str, Way], turns: int) -> dict[str, list[float]]:
    """Seconds of each way in each turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        # Each turn begins with another: what one leaves behind, files to be written, slows the next.
        order = [*ways][turn % len(ways) :] + [*ways][: turn % len(ways)]
        for name in order:
            by, run = ways[name]
            time.sleep(REST)
            start = time.perf_counter()
            run(by)
            if turn:  # the first is not counted
                seconds[name].append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    typer.run(main)
