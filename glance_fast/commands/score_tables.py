"""The tables of scored images, `scores.jsonl` and `scores.csv`: a row is kept as soon as it is there, and resumed from.

`run.json` says which model and settings made them. While a run goes on, rows are appended as images are judged; at its
end both tables are replaced by tables in the order of the inputs. `scores.jsonl` is what a run resumes from.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from glance_fast.errors import SaveError
from glance_fast.storage.atomic_write import AppendedFile, refused, remove_unfinished, replace_file

RUN, LINES, TABLE, OVERLAYS = "run.json", "scores.jsonl", "scores.csv", "overlays"

log = logging.getLogger("glance_fast")

# What identifies an image's judgement: its path and page, and the SHA-256 of the content that was judged.
ImageKey = tuple[str, int | None, str | None]


@dataclass(frozen=True)
class ScoredFile:
    """A row of the tables: a file's score and verdict, or the error that prevented them.

    `overlay_error` is why there is no overlay. `sha256` is that of the file's content. `page`
    counts from 1 in a file of several pages or frames.
    """

    path: str
    score: float | None = None
    p_value: float | None = None
    threshold: float | None = None
    is_anomalous: bool | None = None
    overlay: str | None = None
    error: str | None = None
    overlay_error: str | None = None
    sha256: str | None = None
    page: int | None = None

    @property
    def key(self) -> ImageKey:
        """What a later row of the same judgement replaces; a failed file has none for its content."""
        return self.path, self.page, None if self.score is None else self.sha256

    @property
    def is_complete(self) -> bool:
        """Whether the image need not be scored again: it has its score, and its overlay if it was to have one."""
        drawn = self.overlay is None or Path(self.overlay).is_file()
        return self.score is not None and self.overlay_error is None and drawn


class ScoreTables:
    """The tables of a folder that is locked; rows may be added by any thread. See `opened`."""

    def __init__(self, output: Path, earlier: Iterable[ScoredFile], lines: AppendedFile, table: AppendedFile) -> None:
        self.output, self._lines, self._table = output, lines, table
        self.rows: dict[ImageKey, ScoredFile] = {}
        self._adding, self._syncing = threading.Lock(), threading.Lock()
        self._synced_at = time.monotonic()
        for row in earlier:
            self._keep(row)
        # The earlier overlays by their names: none is drawn over.
        self._drawn = {Path(row.overlay).name: row.key for row in self.rows.values() if row.overlay is not None}

    def add(self, row: ScoredFile) -> None:
        """Append a row, which a kill of this process then leaves; SaveError when the disk refuses."""
        with self._adding:
            self._lines.append(_as_lines([row]))
            self._table.append(_as_csv([row]))
            self._keep(row)

    def sync(self, interval: float = 0) -> None:
        """Flush the rows to the disk, which a power cut then leaves, unless it is less than `interval` seconds ago.

        Raises SaveError.
        """
        with self._syncing:
            if time.monotonic() - self._synced_at >= interval:
                self._lines.sync()
                self._table.sync()
                self._synced_at = time.monotonic()

    def complete_row(self, path: str, page: int | None, sha256: str | None) -> ScoredFile | None:
        """The row of an image that need not be scored again."""
        row = None if sha256 is None else self.rows.get((path, page, sha256))
        return row if row is not None and row.is_complete else None

    def may_draw(self, name: str, key: ImageKey) -> bool:
        """Whether no overlay of another image or content has this name."""
        return self._drawn.get(name, key) == key

    def sort(self, rows: Sequence[ScoredFile]) -> None:
        """Replace the tables by sorted ones: rows of other images in their order, then `rows`; raises SaveError."""
        keys = {row.key for row in rows}
        _write(self.output, [*(row for key, row in self.rows.items() if key not in keys), *rows])

    def _keep(self, row: ScoredFile) -> None:
        """Count the row; it replaces an earlier one of its key, and a failed one of its path."""
        self.rows.pop((row.path, row.page, None), None)
        self.rows[row.key] = row


@contextmanager
def opened(output: Path, run: Mapping[str, str], overwrite: bool = False) -> Iterator[ScoreTables]:
    """The tables in `output`, with the rows of earlier runs of the same model and settings, `run`.

    Raises SaveError for rows of another run, unless they are to be overwritten, and when the disk refuses.
    """
    if overwrite:
        _remove_results(output)
    earlier = _earlier_rows(output, run)
    for folder in (output, output / OVERLAYS):
        remove_unfinished(folder)
    if earlier:
        log.info("%s holds %d rows already; files with the same content keep theirs", output, len(earlier))
    # Without a torn line, and the CSV with all rows of the JSON lines.
    _write(output, earlier)
    with AppendedFile(output / LINES) as lines, AppendedFile(output / TABLE) as table:
        tables = ScoreTables(output, earlier, lines, table)
        try:
            yield tables
        finally:
            tables.sync()


def refuse_scores(output: Path) -> None:
    """Raise SaveError where `output` holds scores, whose table another command would replace."""
    if (output / RUN).exists() or (output / LINES).exists():
        raise SaveError(f"{output} holds the tables of 'glance-fast score'; choose another --output")


def _remove_results(output: Path) -> None:
    """Remove the tables of earlier runs and the folder of their overlays; raises SaveError.

    Runs of version 0.1.0 left both tables, and no `run.json`. A folder `overlays` of no run is not removed, nor is then
    anything else.
    """
    of_a_run = (output / RUN).exists() or ((output / LINES).exists() and (output / TABLE).exists())
    if (output / OVERLAYS).exists() and not of_a_run:
        raise SaveError(
            f"{output / OVERLAYS} is of no run of 'glance-fast score'; remove it, or choose another --output"
        )
    try:
        shutil.rmtree(output / OVERLAYS, ignore_errors=True)
        for name in (LINES, TABLE, RUN):
            (output / name).unlink(missing_ok=True)
    except OSError as error:
        raise refused(output, error) from error


def _earlier_rows(output: Path, run: Mapping[str, str]) -> list[ScoredFile]:
    """The rows that a run of the same model and settings left; without any, `run.json` is written."""
    path = output / RUN
    if not path.exists():
        present = [name for name in (LINES, TABLE, OVERLAYS) if (output / name).exists()]
        if present:
            raise SaveError(f"{output} holds {' and '.join(present)} of another command or version; {_REMEDY}")
        replace_file(path, (json.dumps(run, indent=1) + "\n").encode())
    _check_run(path, run)
    lines = output / LINES
    return list(_read_lines(lines)) if lines.exists() else []


_REMEDY = "choose another --output, or --overwrite to replace them"


def _check_run(path: Path, run: Mapping[str, str]) -> None:
    try:
        earlier = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise SaveError(f"{path}, which describes the scores beside it, cannot be read: {error}; {_REMEDY}") from None
    if earlier == run:
        return
    before: dict[str, object] = earlier if isinstance(earlier, dict) else {}
    names = [name for name in dict.fromkeys([*before, *run]) if before.get(name) != run.get(name)]
    changes = "; ".join(f"{name} {_brief(before.get(name))}, now {_brief(run.get(name))}" for name in names)
    raise SaveError(f"{path.parent} holds scores of another model or other settings ({changes}); {_REMEDY}")


def _brief(value: object) -> str:
    return str(value)[:40]


def _read_lines(path: Path) -> Iterator[ScoredFile]:
    """The rows of `scores.jsonl`; what a kill or a power cut has torn is left out: an unfinished line, and zeros."""
    try:
        *lines, _ = path.read_bytes().split(b"\n")
    except OSError as error:
        raise SaveError(f"{path} cannot be read: {error.strerror}; {_REMEDY}") from None
    for number, line in enumerate(lines, 1):
        if b"\0" in line:
            continue
        try:
            row = ScoredFile(**json.loads(line))
            hash(row.key)
        except (ValueError, TypeError, RecursionError) as error:
            raise SaveError(f"{path}, line {number}, is no row of scores: {error}; {_REMEDY}") from None
        yield row


def _write(output: Path, rows: Sequence[ScoredFile]) -> None:
    replace_file(output / LINES, _as_lines(rows))
    replace_file(output / TABLE, _head() + _as_csv(rows))


def _as_lines(rows: Iterable[ScoredFile]) -> bytes:
    return "".join(json.dumps(asdict(row)) + "\n" for row in rows).encode()


def _head() -> bytes:
    return (",".join(field.name for field in fields(ScoredFile)) + "\n").encode()


def _as_csv(rows: Iterable[ScoredFile]) -> bytes:
    """Lines of CSV in UTF-8. A path need not be valid Unicode: other bytes are spelled out, as `\\udcff`."""
    return "".join(map(_csv_line, rows)).encode("utf-8", "backslashreplace")


def _csv_line(row: ScoredFile) -> str:
    line = io.StringIO()
    # Of Python 3.11 and 3.12 only this terminator puts values with a carriage return into quotes.
    csv.writer(line, lineterminator="\r\n").writerow(asdict(row).values())
    return line.getvalue().removesuffix("\r\n") + "\n"
