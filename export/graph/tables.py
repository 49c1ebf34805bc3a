"""A plan's row tables, computed inside the graph from its per-axis tables.

A runtime folds them into constants once, at load. In the file they are a few vectors per axis instead of megabytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from glance_fast.export.graph.builder import Array, Graph
from glance_fast.plan.axis import UNTOUCHED, WindowSources
from glance_fast.plan.layer import OUTSIDE, Ints
from glance_fast.plan.step import Step
from glance_fast.plan.table import Table


class Rows:
    """Row numbers of a level's table, as values of the graph.

    The level's keys span a grid of row keys times column keys. An additional last row and column stand for "no key".
    """

    def __init__(self, graph: Graph, table: Table) -> None:
        self.graph, self.table = graph, table
        self.height, self.width = len(table.rows) + 1, len(table.cols) + 1
        self.order = self._order() if table.entries else None

    def _order(self) -> str:
        """The index in the flat grid of each entry, int32 [entries]."""
        graph, cols = self.graph, self.table.cols.bands
        grid = graph.reshape(_range(graph, 0, self.height * self.width), self.height, self.width)
        widths = [*map(len, cols), self.width - len(self.table.cols)]
        blocks = []
        for row in self.table.rows.bands:
            across = graph.split(graph.slice(grid, 0, row.keys.start, row.keys.stop), 1, widths)
            stored = [block for block, col in zip(across, cols, strict=False) if not (row.dead and col.dead)]
            blocks += [graph.reshape(block, -1) for block in stored]
        return graph.concat(blocks, 0)

    def per_entry(self, grid: str) -> str:
        """The value of a grid [height, width] at each entry, [entries]."""
        assert self.order is not None
        return self.graph.op("Gather", self.graph.reshape(grid, -1), self.order, axis=0)

    @cached_property
    def base_index(self) -> str:
        """The base cell of each entry, int32 [entries]."""
        return self.per_entry(_sum(self.graph, *self._cells()))

    @cached_property
    def changes(self) -> str:
        """Row of the table of changes, `entries | −base | zero`, at each index of the grid, int32 [height * width]."""
        row, col = self._cells()
        dead = _sum(self.graph, row + self.table.entries, col)
        number = self._numbered(self.graph.reshape(dead, -1), 0)
        # "No key" reads the zero row.
        inside = np.ones((self.height, self.width), bool)
        rows, cols = inside[:, :1].copy(), inside[:1].copy()
        rows[-1], cols[:, -1] = False, False
        key = self.graph.op("And", self.graph.const(rows), self.graph.const(cols))
        zero = self.graph.const(np.array(self.table.zero, np.int32))
        return self.graph.op("Where", self.graph.reshape(key, -1), number, zero)

    @cached_property
    def values(self) -> str:
        """Row of the table of values at each index of the grid, int32 [height * width]; zero without an entry."""
        zero = self.graph.const(np.array([self.table.zero], np.int32))
        zeros = self.graph.op("Expand", zero, self.graph.ints(self.height * self.width))
        return self._numbered(zeros, self.table.base)

    def _numbered(self, grid: str, first: int) -> str:
        """`grid` [height * width] with the entries' numbers, from `first` on, at the entries' indices."""
        if self.order is None:
            return grid
        numbers = _range(self.graph, first, first + self.table.entries)
        return self.graph.op("ScatterElements", grid, self.order, numbers, axis=0)

    def _cells(self) -> tuple[Ints, Ints]:
        """Each row's and column's summand of a cell's number: a row's is multiplied by the level's width."""
        row = np.append(self.table.rows.cell * self.table.base_shape[1], 0)
        return row, np.append(self.table.cols.cell, 0)


class Windows:
    """Rows of the table below that the windows of a step's entries read, as values of the graph."""

    def __init__(self, step: Step, below: Rows, above: Rows) -> None:
        self.graph, self.below, self.above, self.taps = below.graph, below, above, step.layer.kernel**2
        # With an additional row and column, as in `above`, the rows of the step's table.
        self.reads = _with_no_key(step.rows.keys), _with_no_key(step.cols.keys)

    def part(self, entries: slice, taps: Sequence[int], recompute: bool) -> str:
        """Rows that `entries` read at `taps`, int32 [n, taps]: of the values if `recompute`, else of the changes."""
        rows = self.values if recompute else self.changes
        read = self.graph.slice(rows, 0, entries.start, entries.stop)
        if len(taps) == self.taps:
            return read
        return self.graph.op("Gather", read, self.graph.const(np.array(taps, np.int32)), axis=1)

    @cached_property
    def changes(self) -> str:
        """Rows of the changes that all entries read, int32 [entries, all taps]."""
        return self._per_entry(self._at(self.below.changes))

    @cached_property
    def values(self) -> str:
        """Rows of the values that all entries read, int32 [entries, all taps]."""
        graph, (row, col) = self.graph, self.reads
        base = _sum(graph, *_crossed(row.cell * self.below.table.base_shape[1], col.cell))
        touched = [graph.const(part != UNTOUCHED) for part in _crossed(row.key, col.key)]
        changed = graph.op("Where", graph.op("And", *touched), self._at(self.below.values), base)
        inside = [graph.const(part) for part in _crossed(row.inside, col.inside)]
        zero = graph.const(np.array(self.below.table.zero, np.int32))
        return self._per_entry(graph.op("Where", graph.op("And", *inside), changed, zero))

    def _at(self, numbers: str) -> str:
        """The `numbers` [height * width] at the keys that windows read; the last number for "no key"."""
        last = self.below.height - 1, self.below.width - 1
        keys = [np.where(read.key == UNTOUCHED, none, read.key) for read, none in zip(self.reads, last, strict=True)]
        index = _sum(self.graph, *_crossed(keys[0] * self.below.width, keys[1]))
        return self.graph.op("Gather", numbers, index, axis=0)

    def _per_entry(self, by_key: str) -> str:
        """The entries' windows, [entries, taps²], of all keys' windows [height, width, taps, taps]."""
        assert self.above.order is not None
        windows = self.graph.reshape(by_key, self.above.height * self.above.width, -1)
        return self.graph.op("Gather", windows, self.above.order, axis=0)


def _with_no_key(reads: WindowSources) -> WindowSources:
    """The windows of an axis, and after them a window of "no key", which reads nothing."""
    none = np.full_like(reads.key[:1], UNTOUCHED)
    cell, key = np.concatenate([reads.cell, np.full_like(none, OUTSIDE)]), np.concatenate([reads.key, none])
    return WindowSources(cell, key, np.concatenate([reads.dead, np.zeros(none.shape, bool)]))


def base_scale(graph: Graph, step: Step) -> str:
    """k²/sum(M) of the base cells, float32 [height, width]."""
    row, col = (transition.plain.inside.sum(axis=1).astype(np.float32) for transition in (step.rows, step.cols))
    area = graph.const(np.array(step.layer.kernel**2, np.float32))
    return graph.op("Div", area, graph.op("Mul", graph.const(row[:, None]), graph.const(col[None])))


def entry_scale(rows: Rows, step: Step) -> str:
    """k²/sum(M) of the entries of a step, float32 [entries, 1]; `rows` are those of its table."""
    graph = rows.graph
    counts = []
    for part in ("inside", "dead"):
        row, col = (np.append(getattr(transition.keys, part).sum(axis=1), 1) for transition in (step.rows, step.cols))
        counts.append(graph.op("Mul", *(graph.const(side.astype(np.float32)) for side in (row[:, None], col[None]))))
    valid = rows.per_entry(graph.op("Sub", *counts))
    area = graph.const(np.array(step.layer.kernel**2, np.float32))
    return graph.reshape(graph.op("Div", area, valid), -1, 1)


def _crossed(row: Array, col: Array) -> tuple[Array, Array]:
    """Windows of both axes, [n, taps] each, so that they broadcast to [n_rows, n_cols, taps, taps]."""
    return row[:, None, :, None], col[None, :, None, :]


def _sum(graph: Graph, row: Array, col: Array) -> str:
    if row.ndim == 1:
        row, col = row[:, None], col[None]
    return graph.op("Add", graph.const(row.astype(np.int32)), graph.const(col.astype(np.int32)))


def _range(graph: Graph, first: int, last: int) -> str:
    return graph.op("Range", *(graph.const(np.array(value, np.int32)) for value in (first, last, 1)))
