"""The log of experiments, bench/log: dated tables, newest first, that Markdown shows as tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

LOG = Path(__file__).resolve().parents[2] / "bench" / "log"
COLUMNS = ["date", "what", "expected", "came", "kept"]
AREAS = sorted(path for path in LOG.glob("*.md") if path.name != "README.md")


def tables(text: str) -> Iterator[list[list[str]]]:
    """The cells of each run of lines that begin with a pipe; only a pipe after a backslash belongs to its cell."""
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        yield [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.splitlines()]


@pytest.mark.parametrize("path", AREAS, ids=lambda path: path.name)
def test_each_table_has_dated_rows_newest_first(path: Path) -> None:
    document_tables = [*tables(path.read_text(encoding="utf-8"))]
    assert document_tables, "a file without a table"
    for head, rule, *rows in document_tables:
        assert head == COLUMNS
        assert rule == ["---"] * len(COLUMNS)
        assert rows
        assert [row for row in rows if len(row) != len(COLUMNS)] == []
        assert [row for row in rows if not row[1] or not row[3]] == []
        dates = [date.fromisoformat(row[0]) for row in rows]
        assert dates == sorted(dates, reverse=True)


def test_a_broken_table_is_detected() -> None:
    head = "| date | what | expected | came | kept |\n|---|---|---|---|---|\n"
    (whole,) = tables(head + "| 2026-11-24 | a \\| b | | 1 | no |\n| 2026-11-24 | `a | b` | | 1 | no |\n")
    assert whole[2] == ["2026-11-24", "a \\| b", "", "1", "no"]
    assert len(whole[3]) == len(COLUMNS) + 1
    parts = [*tables(head + "| 2026-11-24 | a | | 1 | no |\n\n| 2026-11-24 | b | | 2 | no |\n")]
    assert len(parts) == 2 and parts[1][0] != COLUMNS


def test_the_index_links_each_file_and_no_other() -> None:
    linked = re.findall(r"\]\((\w+\.md)\)", (LOG / "README.md").read_text(encoding="utf-8"))
    assert sorted(linked) == [path.name for path in AREAS]


@pytest.mark.parametrize("path", [*AREAS, LOG / "README.md"], ids=lambda path: path.name)
def test_its_links_lead_to_files(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8"))
    assert [target for target in targets if "://" not in target and not (LOG / target).exists()] == []
