"""A step of a plan: one layer, from the table of the level below to its own; its blocks, sum(M), costs.

A convolution's entry does not start anew. What its window sums to without a hole is known from the base; it adds what
the hole changes at the taps that it touches, again a rectangle of row taps and column taps. Keys that are touched at
the same taps lie side by side in **bands**, and two bands, one of each axis, make a **block**: one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, product

import numpy as np

from glance_fast.plan.axis import Band, Hop
from glance_fast.plan.layer import Ints, Layer
from glance_fast.plan.table import Table

# Share of a window's taps up to which the changes at them are added to its sum without a hole.
MOST_TOUCHED = 0.7
# What reading that sum costs a channel out, where reading a tap of a window costs 1 a channel in.
SUM = 1.0


@dataclass(frozen=True)
class Block:
    """Consecutive entries of a table whose windows read the same taps, and where: `sources` int64 [n, taps].

    Taps are numbered row by row. Sources are rows of the table below; for a convolution's block that is not `whole`, of
    its table of changes.
    """

    entries: slice
    taps: tuple[int, ...]
    sources: Ints
    whole: bool

    def __len__(self) -> int:
        return len(self.sources)


@dataclass(frozen=True)
class Step:
    """One layer of the plan: from the table of the level below to its own."""

    layer: Layer
    channels_in: int
    below: Table
    table: Table
    rows: Hop
    cols: Hop

    @property
    def channels(self) -> tuple[int, int]:
        """Channels of the level below, and of its own."""
        return self.channels_in, self.layer.channels

    def blocks(self) -> list[Block]:
        """The entries, block by block; neighbours that read the same taps are one.

        A block is whole where the hole meets most taps: little is left of the sum without a hole, and to take away
        almost all of it would leave its rounding errors. Such windows are summed anew, and so are those for which that
        is less work, as their dead taps are left out.
        """
        blocks, first = list[Block](), 0
        for (taps, whole), pairs in groupby(self.table.bands, key=lambda pair: self.taps(*pair)):
            sources = np.concatenate([self._sources(row, col, taps, whole) for row, col in pairs])
            blocks.append(Block(slice(first, first + len(sources)), taps, sources, whole))
            first += len(sources)
        return blocks

    def taps(self, row: Band, col: Band) -> tuple[tuple[int, ...], bool]:
        """The taps that a block's windows read, and whether it is whole."""
        kernel = self.layer.kernel
        touched = [y * kernel + x for y in range(kernel)[row.taps] for x in range(kernel)[col.taps]]
        every = product(range(kernel), range(kernel))
        live = [y * kernel + x for y, x in every if not (y in row.lost and x in col.lost)]
        most = len(touched) + SUM * self.layer.channels / self.channels_in
        whole = len(touched) > MOST_TOUCHED * kernel**2 or len(live) < min(most, kernel**2)
        return tuple(live if whole else touched), whole

    def _sources(self, row: Band, col: Band, taps: tuple[int, ...], whole: bool) -> Ints:
        kernel = self.layer.kernel
        # No more than the rectangle around the taps is looked up.
        ys, xs = ({tap // kernel for tap in taps}, {tap % kernel for tap in taps})
        high, wide = (slice(min(side), max(side) + 1) for side in (ys, xs))
        find = self.below.find if whole else self.below.find_changes
        found = find(self.rows.keys.part(row.keys, high), self.cols.keys.part(col.keys, wide))
        around = [y * kernel + x for y in range(kernel)[high] for x in range(kernel)[wide]]
        return found if len(around) == len(taps) else found[:, [around.index(tap) for tap in taps]]

    def valid(self) -> Ints:
        """sum(M) of each row: its window's cells in the image that are not dead, int64 [base + entries]."""
        windows = [(self.rows.plain, self.cols.plain)]
        windows += [(self.rows.keys.part(row.keys), self.cols.keys.part(col.keys)) for row, col in self.table.bands]
        counts = [
            np.outer(rows.inside.sum(1), cols.inside.sum(1)) - np.outer(rows.dead.sum(1), cols.dead.sum(1))
            for rows, cols in windows
        ]
        return np.concatenate([count.ravel() for count in counts])

    @property
    def macs(self) -> int:
        """Multiply-adds of the step for one image."""
        return self._reads * self.channels_in * self.layer.channels if self.layer.kind == "conv" else 0

    @property
    def loop_macs(self) -> int:
        """Multiply-adds of the layer in one run of the loop."""
        window = self.layer.kernel**2 * self.channels_in * self.layer.channels
        return self.table.base * window if self.layer.kind == "conv" else 0

    @property
    def bytes(self) -> int:
        """Bytes that the step reads and writes for one image in float32."""
        below, table = self.below, self.table
        low, high = self._reads, table.zero  # rows of the level below, and of this one, each once read or written
        if self.layer.kind == "conv":
            low += 2 * below.entries + below.base + below.zero  # to find what the holes change below
            high += table.base + table.entries  # sums without a hole, written and read
        return 4 * (low * self.channels_in + high * self.layer.channels)

    @property
    def loop_bytes(self) -> int:
        """Bytes of the layer in one run of the loop in float32, its windows gathered likewise."""
        return 4 * self.table.base * (self.layer.kernel**2 * self.channels_in + self.layer.channels)

    @property
    def _reads(self) -> int:
        """Cells that all windows read."""
        reads = self.layer.kernel**2 * self.table.base
        for row, col in self.table.bands:
            reads += len(row) * len(col) * len(self.taps(row, col)[0])
        return reads
