"""Scoring many files: an overlay picture for each, and one table of all as CSV and JSON lines."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track

from glance_fast.errors import ImageError
from glance_fast.files import replace_file
from glance_fast.images import read_image
from glance_fast.overlay import overlay, save_png

if TYPE_CHECKING:
    from glance_fast.engine import Engine


@dataclass(frozen=True)
class Row:
    """What was found in one file; without a score, `error` says why."""

    path: str
    score: float | None = None
    p_value: float | None = None
    threshold: float | None = None
    is_anomalous: bool | None = None
    overlay: str | None = None
    error: str | None = None


def score_files(
    engine: Engine, paths: Sequence[Path], output: Path, method: str = "dense", overlays: bool = True
) -> list[Row]:
    """Score files into `output`: `scores.csv`, `scores.jsonl` and `overlays/*.png`.

    A file that cannot be read or scored gets a row with its error, and the rest goes on. What was scored is written
    even when the run is interrupted. Raises SaveError when the disk refuses.
    """
    rows: list[Row] = []
    names = _names(paths)
    steps = track(paths, "Scoring", console=Console(stderr=True), transient=True)
    try:
        for path, name in zip(steps, names, strict=True):
            picture = output / "overlays" / name if overlays else None
            rows.append(_score_file(engine, path, picture, method))
    finally:
        write_rows(rows, output)
    return rows


def _score_file(engine: Engine, path: Path, picture: Path | None, method: str) -> Row:
    try:
        pixels = read_image(path)
        result = engine.score(pixels, method)
    except ImageError as error:
        return Row(str(path), error=str(error))
    if picture is not None:
        save_png(overlay(pixels, result), picture)
    return Row(
        path=str(path),
        score=result.score,
        p_value=result.p_value,
        threshold=result.threshold,
        is_anomalous=result.is_anomalous,
        overlay=None if picture is None else str(picture),
    )


def write_rows(rows: Sequence[Row], output: Path) -> None:
    """Write `scores.csv` and `scores.jsonl`; raises SaveError."""
    table = io.StringIO()
    writer = csv.DictWriter(table, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    replace_file(output / "scores.csv", table.getvalue().encode("utf-8", "surrogateescape"))
    replace_file(output / "scores.jsonl", "".join(json.dumps(asdict(row)) + "\n" for row in rows).encode())


def _names(paths: Sequence[Path]) -> Iterator[str]:
    """A file name for each overlay, no two alike: the path below what all share, its parts joined by underscores."""
    root = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    taken: set[str] = set()
    for path in paths:
        below = path.absolute().relative_to(root)
        stem = "_".join([*below.parent.parts, below.stem])
        name, number = f"{stem}.png", 2
        while name in taken:
            name, number = f"{stem}_{number}.png", number + 1
        taken.add(name)
        yield name
