"""Images per second with reading and writing, against the engine alone: `python -m bench.throughput MODEL IMAGES`.

The engine alone on decoded images; reading and scoring one after the other; `Engine.stream` on paths, with one stream
and with as many as `glance-fast score` takes; and `glance-fast score` itself, without and with pictures. All are
interleaved; figures are medians of the turns, and shares are of the engine's own speed in the same turn.
"""

from __future__ import annotations

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

from bench.harness.environment import append_rows, use_all_cores
from glance_fast.commands.score_files import ScoreOptions, score_files
from glance_fast.data.datasets import expand
from glance_fast.data.images import read_image
from glance_fast.data.prefetch import READ_AHEAD
from glance_fast.engine import Engine

REST = 0.5

# The engine that a way of scoring uses, and what it does with all images.
Way = tuple[Engine, Callable[[Engine], object]]


def main(
    model: Path,
    images: list[str],
    backend: str = "auto",
    precision: str = "fp32",
    count: Annotated[int, typer.Option(help="Images per turn.")] = 100,
    turns: int = 6,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file of JSON lines, appended to.")] = None,
) -> None:
    """Print the table, and append its rows to a file."""
    logging.disable(logging.INFO)
    engine, folder = (Engine.load(model, backend, precision=precision, streams=streams) for streams in (1, None))
    files = expand(images)
    with tempfile.TemporaryDirectory() as scratch:
        paths = linked(files, count, Path(scratch))
        ways = ways_of(engine, folder, paths, Path(scratch))
        seconds = time_ways(ways, turns)
    alone = seconds["engine alone, decoded images"]
    rows: list[dict[str, Any]] = [
        {
            "way": name,
            "images_per_second": round(count / median(way_seconds), 2),
            "of_engine": round(median(a / b for a, b in zip(alone, way_seconds, strict=True)), 3),
            "model": model.resolve().name,
            "backend": engine.backend.name,
            "precision": precision,
            "streams": ways[name][0].backend.streams,
            "side": "{}x{}".format(*read_image(files[0]).shape[:2]),
            "count": count,
            "turns": turns,
        }
        for name, way_seconds in seconds.items()
    ]
    table = Table("way", "images per second", "of the engine alone")
    for row in rows:
        table.add_row(row["way"], f"{row['images_per_second']}", f"{row['of_engine']:.0%}")
    Console(width=110).print(table)
    if output is not None:
        append_rows(output, rows)


def linked(files: list[Path], count: int, scratch: Path) -> list[Path]:
    """`count` links to the files in turn, as `score_files` scores each path once."""
    paths = [scratch / f"{i:05}{files[i % len(files)].suffix}" for i in range(count)]
    for i, path in enumerate(paths):
        path.symlink_to(files[i % len(files)].absolute())
    return paths


def ways_of(engine: Engine, folder: Engine, paths: list[Path], scratch: Path) -> dict[str, Way]:
    """The ways that are timed, by name; `engine` has one stream, `folder` as many as suit a folder of images."""
    pixels = [read_image(path) for path in paths]

    def score(by: Engine, overlays: str) -> object:
        options = ScoreOptions(overlays=overlays, overwrite=True)
        return score_files(by, paths, scratch / f"{overlays}-{by.backend.streams}", options)

    return {
        "engine alone, decoded images": (engine, lambda by: [by.score(image) for image in pixels]),
        "read, then score, one by one": (engine, lambda by: [by.score(path) for path in paths]),
        "Engine.stream of paths": (engine, lambda by: list(by.stream(paths, ahead=READ_AHEAD))),
        "Engine.stream, streams=None": (folder, lambda by: list(by.stream(paths, ahead=READ_AHEAD))),
        "score without pictures": (folder, lambda by: score(by, "none")),
        "score with pictures of anomalous images": (folder, lambda by: score(by, "anomalous")),
        "score with pictures of all": (folder, lambda by: score(by, "all")),
        "the same with --streams 1": (engine, lambda by: score(by, "all")),
    }


def time_ways(ways: dict[str, Way], turns: int) -> dict[str, list[float]]:
    """Seconds of each way in each turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        # Each turn begins with another way: files that a way leaves to be written slow the next.
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
    use_all_cores()
    typer.run(main)
