"""A level of the dense pass as a graph holds it: its base as an image, its entries in parts, both as rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise

from glance_fast.export.graph.builder import Graph
from glance_fast.export.graph.tables import Rows
from glance_fast.plan.layer import Ints
from glance_fast.plan.table import Table

Run = tuple[int, int]


class Level:
    """A level's values: `base` [B, C, H, W], its entries one after the other in `parts` [B, n, C], each with its n."""

    def __init__(self, base: str, rows: Rows, parts: Sequence[tuple[str, int]] = ()) -> None:
        self.graph, self.base, self.rows, self.parts = rows.graph, base, rows, parts

    @property
    def table(self) -> Table:
        return self.rows.table

    @cached_property
    def cells(self) -> str:
        """The base as rows, [B, cells, C]."""
        return as_rows(self.graph, self.base, self.table.base)

    @cached_property
    def values(self) -> str:
        """`base | entries | zero`, [B, rows, C]."""
        return self.graph.concat([self.cells, *self._entries, nothing(self.graph, self.cells)], 1)

    @cached_property
    def changes(self) -> str:
        """`entries − base | −base | zero`, [B, rows, C]."""
        graph = self.graph
        base_index = [graph.op("Gather", self.cells, self.rows.base_index, axis=1) for _ in self._entries]
        changed = [graph.op("Sub", *pair) for pair in zip(self._entries, base_index, strict=True)]
        return graph.concat([*changed, graph.op("Neg", self.cells), nothing(graph, self.cells)], 1)

    @cached_property
    def _entries(self) -> list[str]:
        """All entries as one value, or none."""
        return [self.graph.concat([value for value, _ in self.parts], 1)] if self.parts else []

    def pieces(self, runs: Iterable[Run]) -> dict[Run, str]:
        """Of runs of entries, first and one past the last, those that lie in one part: views of it, nothing is copied.

        Runs are the same or apart.
        """
        found, wanted, start = dict[Run, str](), set(runs), 0
        for value, length in self.parts:
            stop = start + length
            inside = [run for run in wanted if start <= run[0] and run[1] <= stop]
            cuts = sorted({start, stop, *(end for run in inside for end in run)}) if inside else []
            spans = list(pairwise(cuts))
            names = self.graph.split(value, 1, [b - a for a, b in spans]) if spans else []
            found |= {span: name for span, name in zip(spans, names, strict=True) if span in wanted}
            start = stop
        return found


def run_of(read: Ints, table: Table) -> Run | None:
    """Which run of entries these rows of a level's table are, if they are one."""
    first, last = int(read[0]) - table.base, int(read[-1]) - table.base
    if not (0 <= first <= last < table.entries and last - first == len(read) - 1):
        return None
    return (first, last + 1) if (read[1:] > read[:-1]).all() else None


def as_rows(graph: Graph, image: str, cells: int) -> str:
    """An image [B, C, H, W] of H * W cells as rows [B, cells, C]."""
    return graph.reshape(graph.op("Transpose", image, perm=[0, 2, 3, 1]), 0, cells, -1)


def nothing(graph: Graph, rows: str) -> str:
    """A zero row [B, 1, C] that a batch of any size has."""
    first = graph.slice(rows, 1, 0, 1)
    return graph.op("Sub", first, first)
