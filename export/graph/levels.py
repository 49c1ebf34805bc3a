"""The values of a level of the dense pass in a graph: its base as an image, its entries in parts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from glance_fast.export.graph.builder import Graph
from glance_fast.export.graph.tables import Rows
from glance_fast.plan.layer import Ints
from glance_fast.plan.table import Table

# The first of consecutive entries, and one past the last.
EntryRange = tuple[int, int]


@dataclass(frozen=True)
class Part:
    """The values [B, n, C] of n = `length` consecutive entries of a level."""

    value: str
    length: int


class Level:
    """A level's values: `base` [B, C, H, W], and its entries in consecutive `parts`."""

    def __init__(self, base: str, rows: Rows, parts: Sequence[Part] = ()) -> None:
        self.graph, self.base, self.rows, self.parts = rows.graph, base, rows, parts

    @property
    def table(self) -> Table:
        """The level's table of the plan."""
        return self.rows.table

    @cached_property
    def cells(self) -> str:
        """The base as rows, [B, cells, C]."""
        return as_rows(self.graph, self.base, self.table.base)

    @cached_property
    def values(self) -> str:
        """`base | entries | zero`, [B, rows, C]."""
        return self.graph.concat([self.cells, *self._entries, zero_row(self.graph, self.cells)], 1)

    @cached_property
    def changes(self) -> str:
        """`entries − base | −base | zero`, [B, rows, C]."""
        graph = self.graph
        bases = [graph.op("Gather", self.cells, self.rows.base_index, axis=1) for _ in self._entries]
        changed = [graph.op("Sub", *pair) for pair in zip(self._entries, bases, strict=True)]
        return graph.concat([*changed, graph.op("Neg", self.cells), zero_row(graph, self.cells)], 1)

    @cached_property
    def _entries(self) -> list[str]:
        """All entries as a single value; empty without entries."""
        return [self.graph.concat([part.value for part in self.parts], 1)] if self.parts else []

    def pieces(self, runs: Iterable[EntryRange]) -> dict[EntryRange, str]:
        """Views of those runs of entries (first, last + 1) that lie within a single part; nothing is copied.

        Any two runs must be identical or disjoint.
        """
        views, wanted, start = dict[EntryRange, str](), set(runs), 0
        for part in self.parts:
            stop = start + part.length
            inside = [run for run in wanted if start <= run[0] and run[1] <= stop]
            cuts = sorted({start, stop, *(end for run in inside for end in run)}) if inside else []
            spans = list(pairwise(cuts))
            names = self.graph.split(part.value, 1, [b - a for a, b in spans]) if spans else []
            views |= {span: name for span, name in zip(spans, names, strict=True) if span in wanted}
            start = stop
        return views


def entry_range(read: Ints, table: Table) -> EntryRange | None:
    """The run of entries that these rows of a level's table are; None if they are not consecutive entries."""
    first, last = int(read[0]) - table.base, int(read[-1]) - table.base
    if not (0 <= first <= last < table.entries and last - first == len(read) - 1):
        return None
    return (first, last + 1) if (read[1:] > read[:-1]).all() else None


def as_rows(graph: Graph, image: str, cells: int) -> str:
    """An image [B, C, H, W] of H * W cells as rows [B, cells, C]."""
    return graph.reshape(graph.op("Transpose", image, perm=[0, 2, 3, 1]), 0, cells, -1)


def zero_row(graph: Graph, rows: str) -> str:
    """A row of zeros [B, 1, C] for a batch of any size."""
    first = graph.slice(rows, 1, 0, 1)
    return graph.op("Sub", first, first)
