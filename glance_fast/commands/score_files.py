"""Scoring many files: an overlay per file, and a table of all as CSV and JSON lines."""

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
from glance_fast.data.prefetch import prefetch_map
from glance_fast.errors import ConfigError, ImageError
from glance_fast.storage.atomic_write import replace_file
from glance_fast.visualization.overlay import overlay, save_jpeg

if TYPE_CHECKING:
    from glance_fast.engine import Engine
    from glance_fast.postprocessing.result import Result


# The images that overlays are drawn for.
OVERLAYS = ("all", "anomalous", "none")


@dataclass(frozen=True)
class ScoredFile:
    """A row of the table: a file's score and verdict, or the error that prevented them."""

    path: str
    score: float | None = None
    p_value: float | None = None
    threshold: float | None = None
    is_anomalous: bool | None = None
    overlay: str | None = None
    error: str | None = None


def score_files(
    engine: Engine, paths: Sequence[Path], output: Path, method: str = "dense", overlays: str = "all"
) -> list[ScoredFile]:
    """Score files into `output`: `scores.csv`, `scores.jsonl` and, for the images of `overlays`, `overlays/*.jpg`.

    Reading, scoring and drawing run concurrently. A file that cannot be read or scored gets a row with its error, and
    the others are scored. The rows of scored files are written even when the run is interrupted. Raises SaveError for
    a file that cannot be written, ConfigError for an unknown value of `overlays`.
    """
    if overlays not in OVERLAYS:
        raise ConfigError(f"unknown overlays {overlays!r}; legal are {', '.join(OVERLAYS)}")
    rows: dict[int, ScoredFile] = {}

    def write(scored: _FileResult) -> None:
        drawn = overlays == "all" or (overlays == "anomalous" and scored.is_anomalous)
        rows[scored.number] = scored.row(output / "overlays" / names[scored.number] if drawn else None)

    def work(file: _InputFile) -> _FileResult:
        if file.pixels is None:
            return _FileResult(file)
        try:
            return _FileResult(file, engine.score(file.pixels, method))
        except ImageError as error:
            return _FileResult(replace(file, error=str(error)))

    names = list(_names(paths))
    steps = prefetch_map(enumerate(paths), _read, work, write, engine.backend.streams)
    try:
        for _ in track(steps, "Scoring", len(paths), console=Console(stderr=True), transient=True):
            pass
    finally:
        steps.close()  # waits for overlays that are being written
        write_rows([rows[number] for number in sorted(rows)], output)
    return [rows[number] for number in sorted(rows)]


def _read(numbered: tuple[int, Path]) -> _InputFile:
    number, path = numbered
    try:
        return _InputFile(number, path, read_image(path))
    except ImageError as error:
        return _InputFile(number, path, error=str(error))


@dataclass(frozen=True)
class _InputFile:
    """A file's pixels, or the error of reading or scoring it."""

    number: int
    path: Path
    pixels: Pixels | None = None
    error: str | None = None


@dataclass(frozen=True)
class _FileResult:
    """A file and the engine's result; without a result, the file holds the error."""

    file: _InputFile
    result: Result[Any] | None = None

    @property
    def number(self) -> int:
        return self.file.number

    @property
    def is_anomalous(self) -> bool:
        return self.result is not None and self.result.is_anomalous

    def row(self, picture: Path | None) -> ScoredFile:
        """The file's row in the table; draws the overlay to `picture` first, if it is not None."""
        if self.result is None or self.file.pixels is None:
            return ScoredFile(str(self.file.path), error=self.file.error)
        if picture is not None:
            save_jpeg(overlay(self.file.pixels, self.result), picture)
        return ScoredFile(
            path=str(self.file.path),
            score=self.result.score,
            p_value=self.result.p_value,
            threshold=self.result.threshold,
            is_anomalous=self.result.is_anomalous,
            overlay=None if picture is None else str(picture),
        )


def write_rows(rows: Sequence[ScoredFile], output: Path) -> None:
    """Write `scores.csv` and `scores.jsonl`; raises SaveError."""
    table = io.StringIO()
    writer = csv.DictWriter(table, [field.name for field in fields(ScoredFile)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    replace_file(output / "scores.csv", table.getvalue().encode("utf-8", "surrogateescape"))
    replace_file(output / "scores.jsonl", "".join(json.dumps(asdict(row)) + "\n" for row in rows).encode())


def _names(paths: Sequence[Path]) -> Iterator[str]:
    """A unique file name per overlay: the path below the common folder, its parts joined by underscores."""
    root = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    used: set[str] = set()
    for path in paths:
        relative = path.absolute().relative_to(root)
        stem = "_".join([*relative.parent.parts, relative.stem])
        name, number = f"{stem}.jpg", 2
        while name in used:
            name, number = f"{stem}_{number}.jpg", number + 1
        used.add(name)
        yield name
