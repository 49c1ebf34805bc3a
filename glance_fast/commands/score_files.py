"""Scoring many files: an overlay picture for each, and one table of all as CSV and JSON lines."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import track

from glance_fast.data.images import Pixels, read_image
from glance_fast.data.prefetch import overlapped
from glance_fast.errors import ConfigError, ImageError
from glance_fast.storage.atomic_write import replace_file
from glance_fast.visualization.overlay import overlay, save_jpeg

if TYPE_CHECKING:
    from glance_fast.engine import Engine
    from glance_fast.postprocessing.result import Result


# Of which images pictures are drawn.
PICTURES = ("all", "anomalous", "none")


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
    engine: Engine, paths: Sequence[Path], output: Path, method: str = "dense", overlays: str = "all"
) -> list[Row]:
    """Score files into `output`: `scores.csv`, `scores.jsonl` and `overlays/*.jpg`, which are of `PICTURES`.

    Files are read and pictures are drawn while the engine scores. A file that cannot be read or scored gets a row with
    its error, and the rest goes on. What was scored is written even when the run is interrupted. Raises SaveError when
    the disk refuses, ConfigError for unknown `overlays`.
    """
    if overlays not in PICTURES:
        raise ConfigError(f"unknown overlays {overlays!r}; legal are {', '.join(PICTURES)}")
    rows: dict[int, Row] = {}

    def write(scored: _Scored) -> None:
        drawn = overlays == "all" or (overlays == "anomalous" and scored.is_anomalous)
        rows[scored.number] = scored.row(output / "overlays" / names[scored.number] if drawn else None)

    def work(file: _File) -> _Scored:
        try:
            return _Scored(file, engine.score(file.pixels, method)) if file.pixels is not None else _Scored(file)
        except ImageError as error:
            return _Scored(replace(file, error=str(error)))

    names = list(_names(paths))
    steps = overlapped(enumerate(paths), _read, work, write, engine.backend.streams)
    try:
        for _ in track(steps, "Scoring", len(paths), console=Console(stderr=True), transient=True):
            pass
    finally:
        steps.close()  # waits for what is being written
        write_rows([rows[number] for number in sorted(rows)], output)
    return [rows[number] for number in sorted(rows)]


def _read(numbered: tuple[int, Path]) -> _File:
    number, path = numbered
    try:
        return _File(number, path, read_image(path))
    except ImageError as error:
        return _File(number, path, error=str(error))


@dataclass(frozen=True)
class _File:
    """A file that was read, or why it could not be."""

    number: int
    path: Path
    pixels: Pixels | None = None
    error: str | None = None


@dataclass(frozen=True)
class _Scored:
    """A file and what the engine says of it; without a result, the file's error says why."""

    file: _File
    result: Result[Any] | None = None

    @property
    def number(self) -> int:
        return self.file.number

    @property
    def is_anomalous(self) -> bool:
        return self.result is not None and self.result.is_anomalous

    def row(self, picture: Path | None) -> Row:
        """Its row in the table, its picture drawn."""
        if self.result is None or self.file.pixels is None:
            return Row(str(self.file.path), error=self.file.error)
        if picture is not None:
            save_jpeg(overlay(self.file.pixels, self.result), picture)
        return Row(
            path=str(self.file.path),
            score=self.result.score,
            p_value=self.result.p_value,
            threshold=self.result.threshold,
            is_anomalous=self.result.is_anomalous,
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
        name, number = f"{stem}.jpg", 2
        while name in taken:
            name, number = f"{stem}_{number}.jpg", number + 1
        taken.add(name)
        yield name
