"""The log of a run, one JSON line per step, and the loss curves drawn from it."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from glance_fast.data.regular_file import read_regular
from glance_fast.errors import TrainingError
from glance_fast.storage.atomic_write import AppendedFile, replace_file

# A row takes up to 300 bytes.
MAX_LOG_BYTES = 2**30


class LogDigest(BaseModel):
    """Size in bytes and SHA-256 of the log after a step: of an empty one by default."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    size: int = Field(0, ge=0)
    sha256: str = hashlib.sha256().hexdigest()


class TrainingLog:
    """Appends rows to `log.jsonl`, which begins with the rows that `kept` describes; later ones will run again.

    Raises TrainingError where the file does not begin with these rows.
    """

    def __init__(self, path: Path, kept: LogDigest) -> None:
        self.path = path
        try:
            data = read_regular(path, MAX_LOG_BYTES)[: kept.size] if kept.size else b""
        except OSError as error:
            raise TrainingError(f"{path} cannot be read ({error.strerror}); {_REMEDY}") from error
        self._size, self._hash = len(data), hashlib.sha256(data)
        if self.digest != kept:
            raise TrainingError(f"{path} is not the log that this run wrote (wrong SHA-256); {_REMEDY}")
        replace_file(path, data)

    @property
    def digest(self) -> LogDigest:
        """Size and SHA-256 of all rows so far."""
        return LogDigest(size=self._size, sha256=self._hash.hexdigest())

    def write(self, row: dict[str, Any]) -> None:
        """Append a row; raises SaveError."""
        line = (json.dumps(row) + "\n").encode()
        with AppendedFile(self.path) as file:
            file.append(line)
        self._size += len(line)
        self._hash.update(line)

    def sync(self) -> LogDigest:
        """Flush the rows to the disk before a checkpoint vouches for them; returns their digest. Raises SaveError."""
        with AppendedFile(self.path) as file:
            file.sync()
        return self.digest


_REMEDY = "restore the file, or use --restart to discard the unfinished run and train again"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a log."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def draw_curves(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot every stage's losses against its steps into a PNG, one panel per stage."""
    from matplotlib.figure import Figure

    stages = list(dict.fromkeys(row["stage"] for row in rows))
    figure = Figure(figsize=(4 * len(stages), 3.2), layout="constrained")
    axes = figure.subplots(1, len(stages), squeeze=False)[0]
    for axis, stage in zip(axes, stages, strict=True):
        stage_rows = [row for row in rows if row["stage"] == stage]
        steps = [row["step"] for row in stage_rows]
        for name in stage_rows[0]["losses"]:
            axis.plot(steps, [row["losses"][name] for row in stage_rows], label=name, lw=0.9)
        axis.set(title=stage, xlabel="step", yscale="log")
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110)
    replace_file(path, picture.getvalue())
