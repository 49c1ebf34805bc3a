"""Scoring many files: an overlay per file, and a table of all as CSV and JSON lines; a stopped run goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import track

from glance_fast.commands.overlay_names import distinct_name, overlay_names
from glance_fast.commands.pictures import Picture, pages_of
from glance_fast.commands.score_tables import OVERLAYS, ScoredFile, ScoreTables, opened
from glance_fast.commands.stop_signals import StopRequest
from glance_fast.data.images import ImageFile, read_rgb
from glance_fast.data.meaning import RgbImage
from glance_fast.data.prefetch import prefetch_map
from glance_fast.errors import ConfigError, ImageError
from glance_fast.storage.folder_lock import locked
from glance_fast.version import __version__
from glance_fast.visualization.overlay import overlay, save_jpeg

if TYPE_CHECKING:
    from glance_fast.engine import Engine
    from glance_fast.postprocessing.result import Result

# The images that overlays are drawn for.
DRAWN = ("all", "anomalous", "none")

# Seconds between flushes of the tables to the disk: a flush of each row, of 1 to 10 ms, would slow a GPU down.
SYNC_INTERVAL = 1.0


@dataclass(frozen=True)
class ScoreOptions:
    """How files are scored: the engine's `method`, the images that `overlays` are drawn for (of `DRAWN`).

    With `pages` each page or frame of a file is scored, without it a file of several is an error.
    `overwrite` removes the results of earlier runs in the output folder; else a run of the same model and options goes
    on with them. Raises ConfigError.
    """

    method: str = "dense"
    overlays: str = "all"
    overwrite: bool = False
    pages: bool = False

    def __post_init__(self) -> None:
        if self.overlays not in DRAWN:
            raise ConfigError(f"unknown overlays {self.overlays!r}; legal are {', '.join(DRAWN)}")

    def draws(self, is_anomalous: bool) -> bool:
        """Whether an image of this verdict gets an overlay."""
        return self.overlays == "all" or (self.overlays == "anomalous" and is_anomalous)


def score_files(
    engine: Engine,
    paths: Sequence[Path],
    output: Path,
    options: ScoreOptions | None = None,
    stop: StopRequest | None = None,
) -> list[ScoredFile]:
    """Score files into `output`: `scores.csv`, `scores.jsonl` and, as `options` say, `overlays/*.jpg`.

    Returns the rows in the order of `paths`, with the option `pages` a row per page. Reading, scoring and drawing run
    concurrently. A file that cannot be read or scored gets a row with its error, one that cannot be drawn a row with
    its `overlay_error`, and the others are scored. A file that has a row of the same content, model and options is not
    scored again. When a signal sets `stop`, the images in work are finished, and the rows are those so far. Raises
    SaveError for tables that cannot be written, for another run that writes to `output`, and for results of another
    model or other options there.
    """
    options = options or ScoreOptions()
    engine.check_method(options.method)  # before earlier results are removed
    paths = list(dict.fromkeys(paths))
    pictures = list(pages_of(paths)) if options.pages else [Picture(path) for path in paths]
    names = [picture.overlay_path for picture in pictures]
    with locked(output), opened(output, _settings(engine, options), options.overwrite) as tables:
        run = _ScorePipeline(engine, options, tables, stop or StopRequest(), list(overlay_names(names, output)))
        rows = list(run.rows(pictures))
        if len(rows) == len(pictures):
            tables.sort(rows)
        return rows


def _settings(engine: Engine, options: ScoreOptions) -> dict[str, str]:
    """What rows must have in common to stand in one table: the content of `run.json`."""
    record = engine.backend.export
    export = {} if record is None else {"export": f"{record.form} at {record.precision}", "export_files": record.digest}
    return {
        "glance_fast": __version__,
        **asdict(engine.files.digests),
        "backend": f"{engine.backend.name} on {engine.backend.device_description}",
        **export,
        "method": options.method,
        "overlays": options.overlays,
        "pages": str(options.pages).lower(),
    }


@dataclass(frozen=True)
class _InputFile:
    """A file: the hash of its content, its image or the error of reading it, or the row that it has already."""

    number: int
    picture: Picture
    sha256: str | None = None
    image: RgbImage | None = None
    error: str | None = None
    earlier: ScoredFile | None = None


@dataclass(frozen=True)
class _JudgedFile:
    """A file's row, and of an image that was just scored what its overlay is drawn from."""

    row: ScoredFile
    image: RgbImage | None = None
    result: Result[Any] | None = None


@dataclass(frozen=True)
class _ScorePipeline:
    """The stages that a file passes: read, judge, draw. `names` are the overlays' names, by the files' numbers."""

    engine: Engine
    options: ScoreOptions
    tables: ScoreTables
    stop: StopRequest
    names: Sequence[str]

    def rows(self, pictures: Sequence[Picture]) -> Iterator[ScoredFile]:
        """The rows of all pictures in order, or of those that were begun before the run was stopped."""
        files = takewhile(lambda _: self.stop.number is None, enumerate(pictures))
        steps = prefetch_map(files, self.read, self.judge, self.draw, self.engine.backend.streams)
        with closing(steps):  # waits for overlays that are being written
            for row in track(steps, "Scoring", len(pictures), console=Console(stderr=True), transient=True):
                if row is not None:
                    yield row

    def read(self, numbered: tuple[int, Picture]) -> _InputFile:
        """Read a picture that has no complete row for its content yet."""
        number, picture = numbered
        sha256 = None
        try:
            file = ImageFile.read(picture.path)
            sha256 = hashlib.sha256(file.data).hexdigest()
            if (earlier := self.tables.complete_row(str(picture.path), picture.page, sha256)) is not None:
                return _InputFile(number, picture, sha256, earlier=earlier)
            page = None if picture.page is None else picture.page - 1
            return _InputFile(number, picture, sha256, read_rgb(file, self.engine.input_settings, page))
        except ImageError as error:
            return _InputFile(number, picture, sha256, error=str(error))
        except MemoryError:
            return _InputFile(number, picture, sha256, error=f"{picture.name}: {_NO_MEMORY}")

    def judge(self, file: _InputFile) -> _JudgedFile | None:
        """Score a file and add its row; None when the run has been stopped."""
        if file.earlier is not None:
            return _JudgedFile(file.earlier)
        if self.stop.number is not None:
            return None
        path, page = file.picture.path, file.picture.page
        row, result = ScoredFile(str(path), error=file.error, sha256=file.sha256, page=page), None
        if file.image is not None:
            try:
                result = self.engine.score(file.image, self.options.method)
                row = self._scored(file, result)
            except ImageError as error:
                row = replace(row, error=str(error))
            except MemoryError:
                row = replace(row, error=f"{file.picture.name}: {_NO_MEMORY}")
        self.tables.add(row)
        return _JudgedFile(row, file.image, result)

    def _scored(self, file: _InputFile, result: Result[Any]) -> ScoredFile:
        path, page, overlay_path = str(file.picture.path), file.picture.page, None
        if self.options.draws(result.is_anomalous):
            name = self.names[file.number]
            if not self.tables.may_draw(name, (path, page, file.sha256)):
                name = distinct_name(name, file.sha256, self.tables.output)
            overlay_path = str(self.tables.output / OVERLAYS / name)
        return ScoredFile(
            path=path,
            score=result.score,
            p_value=result.p_value,
            threshold=result.threshold,
            is_anomalous=result.is_anomalous,
            overlay=overlay_path,
            sha256=file.sha256,
            page=page,
        )

    def draw(self, judged: _JudgedFile | None) -> ScoredFile | None:
        """Draw a file's overlay, if it is to have one, and flush the tables when it is time; the row as it is then."""
        if judged is None:
            return None
        row = judged.row
        if judged.result is not None and judged.image is not None and row.overlay is not None:
            try:
                save_jpeg(overlay(judged.image.pixels, judged.result), Path(row.overlay))
            except Exception as error:  # noqa: BLE001 (whatever drawing raises concerns this overlay alone)
                row = replace(row, overlay=None, overlay_error=str(error) or type(error).__name__)
                self.tables.add(row)
        self.tables.sync(SYNC_INTERVAL)
        return row


_NO_MEMORY = "there is not enough memory for an image of this size; cut it into tiles"
