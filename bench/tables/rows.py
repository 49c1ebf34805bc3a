"""The committed rows that figures are computed from, and how numbers are written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results"

Row = dict[str, Any]
# A table's lines, the first its head; the cells of a line.
Lines = list[list[str]]
# Method, runtime and precision of a row of `bench.runtimes`.
RowKey = tuple[str, str, str]
# Size and stride of the machine's limits; their batch is 1.
NO_POINT = (0, 0, 1)


@cache
def read_rows(name: str) -> list[Row]:
    """The rows of a file in bench/results: JSON lines, or one JSON list; empty where the file is not committed yet."""
    path = RESULTS / name
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    rows: list[Row] = json.loads(text) if path.suffix == ".json" else [*map(json.loads, text.splitlines())]
    return rows


@dataclass(frozen=True)
class BenchmarkRun:
    """The rows of one run of `bench.runtimes` at one point, by method, runtime and precision."""

    rows: dict[RowKey, Row]

    def row(self, method: str, runtime: str = "OpenVINO", precision: str = "fp32") -> Row:
        """One row; raises SystemExit, which names the row, where the run has none."""
        key = (method, runtime, precision)
        if key not in self.rows:
            raise SystemExit(f"a figure needs the row {key}, which the run does not have; run bench.runtimes again")
        return self.rows[key]

    def ms(self, method: str, runtime: str = "OpenVINO", precision: str = "fp32") -> str:
        """Median milliseconds, as text."""
        return milliseconds(self.row(method, runtime, precision)["ms"])

    def ratio(self, slow: RowKey, fast: RowKey) -> float:
        """Median of the turns' ratios of two rows."""
        turns = zip(self.row(*slow)["turns_ms"], self.row(*fast)["turns_ms"], strict=True)
        return float(median(a / b for a, b in turns))


def runs(name: str, size: int = 256, stride: int = 8, batch: int = 1) -> dict[str, BenchmarkRun]:
    """All runs in a file of `bench.runtimes` at a point, by date; older rows without a point are left out."""
    by_date: dict[str, dict[RowKey, Row]] = {}
    for row in read_rows(name):
        # The machine's limits, which have no point, belong to all points of their run.
        if "size" in row and (row["size"], row["stride"], row["batch"]) in ((size, stride, batch), NO_POINT):
            by_date.setdefault(row["date"], {})[row["method"], row["runtime"], row["precision"]] = row
    at_point = {date: rows for date, rows in by_date.items() if any(row["size"] == size for row in rows.values())}
    return {date: BenchmarkRun(rows) for date, rows in at_point.items()}


def run_of(name: str, date: str) -> BenchmarkRun:
    """The run whose date begins with `date`."""
    (run,) = (run for full, run in runs(name).items() if full.startswith(date))
    return run


def last_run(name: str) -> BenchmarkRun:
    """The run that was appended last."""
    return [*runs(name).values()][-1]


def milliseconds(value: float) -> str:
    """Three digits: "19.7 ms", "356 ms", "1.08 s"."""
    if value >= 1000:
        return seconds(value)
    return f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms"


def seconds(value_ms: float) -> str:
    """Milliseconds as seconds: "1.11 s"."""
    return f"{value_ms / 1e3:.2f} s"


def gmac(value: float) -> str:
    """Multiply-adds in billions: "0.94", "117.7"."""
    return f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def gigabytes(value: float) -> str:
    """Bytes as gigabytes: "1.2 GB"."""
    return f"{value / 1e9:.1f} GB"


def with_deviation(values: Sequence[float]) -> str:
    """Mean, and standard deviation where there are several values: "0.981 ± 0.002"."""
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def code(name: str) -> str:
    """A name in code style."""
    return f"`{name}`"


def markdown(lines: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    head, *body = [list(line) for line in lines]
    rule = ["---", *["--:"] * (len(head) - 1)]
    rows = ["|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|" for cells in (head, *body)]
    return "\n".join([rows[0], "|" + "|".join(rule) + "|", *rows[1:]])


Table = Callable[[], Lines]
