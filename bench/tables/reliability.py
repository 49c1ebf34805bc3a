"""The table of the soak: the last row of each backend and number of streams."""

from __future__ import annotations

from bench.tables.rows import Lines, Table, read_rows


def soak() -> Lines:
    """Scores of each case, how many were not the first one, and what the process held more at the end."""
    lines: Lines = [["backend, streams", "loads", "minutes", "scores", "not the first", "MB", "threads", "open files"]]
    last = {(row["backend"], row["streams"]): row for row in read_rows("soak.jsonl")}
    for (backend, streams), row in last.items():
        grown = [f"{row['grown'][name]:+.0f}" for name in ("memory_mb", "threads", "files")]
        cells = [f"{row['loads']}", f"{row['minutes']:.1f}", f"{row['scores']:,}", f"{row['different']}"]
        lines.append([f"{backend}, {streams}", *cells, *grown])
    return lines


TABLES: dict[str, Table] = {"soak": soak}
