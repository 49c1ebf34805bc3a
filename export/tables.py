"""A plan's row tables, built inside the graph from its per-axis tables.

A runtime folds them into constants once, at load. In the file they are a few vectors an axis instead of megabytes.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from glance_fast.axis import UNTOUCHED, Reads
from glance_fast.export.graph import Array, Graph
from glance_fast.layers import OUTSIDE, Ints
from glance_fast.plan import Step
from glance_fast.table import Table


class Rows:
    """Row numbers of one level's table, as a graph finds them.

    The level's keys span a grid of row keys times column keys. One row and column more stand for what is no key.
    """

    def __init__(self, graph: Graph, table: Table) -> None:
        self.graph, self.table = graph, table
        self.height, self.width = len(table.rows) + 1, len(table.cols) + 1
        self.order = self._order() if table.entries else None

    def _order(self) -> str:
        """The place in the grid of each entry, int32 [entries]."""
        graph = self.graph
        grid = graph.reshape(_range(graph, 0, self.height * self.width), self.height, self.width)
        blocks = []
        for row, col in self.table.bands:
            rows = graph.slice(grid, 0, row.keys.start, row.keys.stop)
            blocks.append(graph.reshape(graph.slice(rows, 1, col.keys.start, col.keys.stop), -1))
        return graph.concat(blocks, 0)

    def per_entry(self, grid: str) -> str:
        """What stands in a grid [height, width] at each entry, [entries]."""
        assert self.order is not None
        return self.graph.op("Gather", self.graph.reshape(grid, -1), self.order, axis=0)

    @cached_property
    def homes(self) -> str:
        """The base cell of each entry, int32 [entries]."""
        return self.per_entry(_sum(self.graph, *self._cells()))

    @cached_property
    def changes(self) -> str:
        """Rows of the table of changes by place in the grid, int32 [height * width]: `entries | −base | zero`."""
        row, col = self._cells()
        dead = _sum(self.graph, row + self.table.entries, col)
        number = self._numbered(self.graph.reshape(dead, -1), 0)
        # What is no key reads the zero row.
        inside = np.ones((self.height, self.width), bool)
        rows, cols = inside[:, :1].copy(), inside[:1].copy()
        rows[-1], cols[:, -1] = False, False
        key = self.graph.op("And", self.graph.const(rows), self.graph.const(cols))
        zero = self.graph.const(np.array(self.table.zero, np.int32))
        return self.graph.op("Where", self.graph.reshape(key, -1), number, zero)

    @cached_property
    def values(self) -> str:
        """Rows of the table of values by place in the grid, int32 [height * width]; what is no entry reads zero."""
        zero = self.graph.const(np.array([self.table.zero], np.int32))
        places = self.graph.op("Expand", zero, self.graph.ints(self.height * self.width))
        return self._numbered(places, self.table.base)

    def _numbered(self, places: str, first: int) -> str:
        """`places` [height * width] with the entries' numbers, from `first` on, at their places."""
        if self.order is None:
            return places
        numbers = _range(self.graph, first, first + self.table.entries)
        return self.graph.op("ScatterElements", places, self.order, numbers, axis=0)

    def _cells(self) -> tuple[Ints, Ints]:
        """Of each row and column of the grid its part of the cell's number: a row's times the level's width."""
        row = np.append(self.table.rows.cell * self.table.base_shape[1], 0)
        return row, np.append(self.table.cols.cell, 0)


def changed_sources(rows: Rows, reads: tuple[Reads, Reads]) -> str:
    """Rows of the changes that a block's windows read, int32 [n_rows, n_cols, taps, taps]."""
    return _at(rows, rows.changes, reads)


def _at(rows: Rows, numbers: str, reads: tuple[Reads, Reads]) -> str:
    """What stands in `numbers` [height * width] at the keys that windows read; in the last place for what is none."""
    graph = rows.graph
    keys = [np.where(part.key == UNTOUCHED, last, part.key) for part, last in zip(reads, _last(rows), strict=True)]
    place = _sum(graph, *_crossed(keys[0] * rows.width, keys[1]))
    return graph.op("Gather", numbers, place, axis=0)


def value_sources(rows: Rows, reads: tuple[Reads, Reads]) -> str:
    """Rows of the values that a block's windows read, int32 [n_rows, n_cols, taps, taps]."""
    graph = rows.graph
    entry = _at(rows, rows.values, reads)
    base = _sum(graph, *_crossed(reads[0].cell * rows.table.base_shape[1], reads[1].cell))
    touched = [graph.const(part != UNTOUCHED) for part in _crossed(reads[0].key, reads[1].key)]
    found = graph.op("Where", graph.op("And", *touched), entry, base)
    if all((part.cell != OUTSIDE).all() for part in reads):
        return found
    inside = [graph.const(part != OUTSIDE) for part in _crossed(reads[0].cell, reads[1].cell)]
    zero = graph.const(np.array(rows.table.zero, np.int32))
    return graph.op("Where", graph.op("And", *inside), found, zero)


def base_scale(graph: Graph, step: Step) -> str:
    """k²/sum(M) of the base cells, float32 [height, width]."""
    row, col = (hop.plain.inside.sum(axis=1).astype(np.float32) for hop in (step.rows, step.cols))
    area = graph.const(np.array(step.layer.kernel**2, np.float32))
    return graph.op("Div", area, graph.op("Mul", graph.const(row[:, None]), graph.const(col[None])))


def entry_scale(rows: Rows, step: Step) -> str:
    """k²/sum(M) of the entries of a step, float32 [entries, 1]; `rows` are those of its own table."""
    graph = rows.graph
    counts = []
    for part in ("inside", "dead"):
        row, col = (np.append(getattr(hop.keys, part).sum(axis=1), 1) for hop in (step.rows, step.cols))
        counts.append(graph.op("Mul", *(graph.const(side.astype(np.float32)) for side in (row[:, None], col[None]))))
    valid = rows.per_entry(graph.op("Sub", *counts))
    area = graph.const(np.array(step.layer.kernel**2, np.float32))
    return graph.reshape(graph.op("Div", area, valid), -1, 1)


def _last(rows: Rows) -> tuple[int, int]:
    return rows.height - 1, rows.width - 1


def _crossed(row: Array, col: Array) -> tuple[Array, Array]:
    """Windows of both axes, [n, taps] each, so that they broadcast to [n_rows, n_cols, taps, taps]."""
    return row[:, None, :, None], col[None, :, None, :]


def _sum(graph: Graph, row: Array, col: Array) -> str:
    if row.ndim == 1:
        row, col = row[:, None], col[None]
    return graph.op("Add", graph.const(row.astype(np.int32)), graph.const(col.astype(np.int32)))


def _range(graph: Graph, first: int, last: int) -> str:
    return graph.op("Range", *(graph.const(np.array(value, np.int32)) for value in (first, last, 1)))
