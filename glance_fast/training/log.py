"""The log of a run, one JSON line per step, and the loss curves drawn from it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from glance_fast.storage.atomic_write import replace_file


class TrainingLog:
    """Appends rows to `log.jsonl`; opened at a stage and step, it drops the rows of steps that will run again."""

    def __init__(self, path: Path, stage: int, step: int) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if _before(line, stage, step)]
        replace_file(path, "".join(line + "\n" for line in kept).encode())

    def write(self, row: dict[str, Any]) -> None:
        """Append a row."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a log."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _before(line: str, stage: int, step: int) -> bool:
    """Whether a line is complete and of an earlier step; a kill can leave half a line at the end."""
    try:
        row = json.loads(line)
        return (int(row["stage_index"]), int(row["step"])) < (stage, step)
    except (ValueError, KeyError, TypeError):
        return False


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
