"""The table of tolerances, written where a page says `<!-- tolerances -->`."""

from __future__ import annotations

from typing import Any

from glance_fast.backends.tolerances import TOLERANCES

MARK = "<!-- tolerances -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the table in the place of the mark."""
    return markdown.replace(MARK, table()) if MARK in markdown else markdown


def table() -> str:
    """One row per comparison and precision: the largest relative error, and why it is not smaller."""
    rows = [
        f"| {compared} | {precision} | {row.limit:g} | {row.reason} |"
        for (compared, precision), row in TOLERANCES.items()
    ]
    return "\n".join(["| compared | precision | limit | why not smaller |", "|---|---|--:|---|", *rows])
