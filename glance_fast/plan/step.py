"""A step of a plan: one layer, from the table of the level below to its own; its blocks, sum(M), costs.

A convolution's entry is not summed from zero. Its window's sum without a hole is the base cell's; the entry adds what
the hole changes at the taps that it touches, again a rectangle of row taps and column taps. Keys that are touched at
the same taps lie side by side in **bands**, and two bands, one per axis, make a **block**: one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, product

import numpy as np

from glance_fast.plan.axis import Band, Transition
from glance_fast.plan.layer import Ints, Layer
from glance_fast.plan.table import Table

# Share of a window's taps up to which the changes at them are added to its sum without a hole.
MAX_TOUCHED_SHARE = 0.7
# Cost of reading that shared sum, per output channel, in units of one tap per input channel.
SHARED_SUM_COST = 1.0


@dataclass(frozen=True)
class MatmulBlock:
    """Consecutive entries of a table whose windows read the same taps: one matrix product, or one maximum of a pool.

    `taps` are numbered row by row. `sources` int64 [n, taps]: rows of the table below if `recompute` (always so for a
    pool), else rows of its table of changes.
    """

    entries: slice
    taps: tuple[int, ...]
    sources: Ints
    recompute: bool

    def __len__(self) -> int:
        return len(self.sources)


@dataclass(frozen=True)
class Step:
    """One layer of the plan: from the table of the level below to its own."""

    layer: Layer
    channels_in: int
    below: Table
    table: Table
    rows: Transition
    cols: Transition

    @property
    def channels(self) -> tuple[int, int]:
        """Channels of the level below, and of its own."""
        return self.channels_in, self.layer.channels

    def blocks(self) -> list[MatmulBlock]:
        """The entries, block by block; neighbours that read the same taps are one block.

        A block is recomputed where the hole meets most taps: little is left of the sum without a hole, and to subtract
        almost all of it would leave its rounding errors. It is also recomputed where that is less work, as dead taps
        are left out.
        """
        blocks, first = list[MatmulBlock](), 0
        for (taps, recompute), pairs in groupby(self.table.bands, key=lambda pair: self.taps(*pair)):
            sources = np.concatenate([self._sources(row, col, taps, recompute) for row, col in pairs])
            blocks.append(MatmulBlock(slice(first, first + len(sources)), taps, sources, recompute))
            first += len(sources)
        return blocks

    def taps(self, row: Band, col: Band) -> tuple[tuple[int, ...], bool]:
        """The taps that a block's windows read, and whether the block is recomputed."""
        kernel = self.layer.kernel
        touched = [y * kernel + x for y in range(kernel)[row.taps] for x in range(kernel)[col.taps]]
        all_taps = product(range(kernel), range(kernel))
        live = [y * kernel + x for y, x in all_taps if not (y in row.dead_taps and x in col.dead_taps)]
        cost_of_changes = len(touched) + SHARED_SUM_COST * self.layer.channels / self.channels_in
        recompute = len(touched) > MAX_TOUCHED_SHARE * kernel**2 or len(live) < min(cost_of_changes, kernel**2)
        return tuple(live if recompute else touched), recompute

    def _sources(self, row: Band, col: Band, taps: tuple[int, ...], recompute: bool) -> Ints:
        kernel = self.layer.kernel
        # No more than the rectangle around the taps is looked up.
        ys, xs = ({tap // kernel for tap in taps}, {tap % kernel for tap in taps})
        row_taps, col_taps = (slice(min(side), max(side) + 1) for side in (ys, xs))
        find = self.below.find if recompute else self.below.find_changes
        sources = find(self.rows.keys.part(row.keys, row_taps), self.cols.keys.part(col.keys, col_taps))
        rectangle = [y * kernel + x for y in range(kernel)[row_taps] for x in range(kernel)[col_taps]]
        return sources if len(rectangle) == len(taps) else sources[:, [rectangle.index(tap) for tap in taps]]

    def valid_counts(self) -> Ints:
        """sum(M) of each row: number of its window's cells in the image that are not dead, int64 [base + entries]."""
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
        return self._cells_read * self.channels_in * self.layer.channels if self.layer.kind == "conv" else 0

    @property
    def loop_macs(self) -> int:
        """Multiply-adds of the layer in one run of the loop."""
        window = self.layer.kernel**2 * self.channels_in * self.layer.channels
        return self.table.base * window if self.layer.kind == "conv" else 0

    @property
    def bytes(self) -> int:
        """Bytes that the step reads and writes for one image in float32."""
        below, table = self.below, self.table
        low, high = self._cells_read, table.zero  # rows of the level below, and of this one, each once read or written
        if self.layer.kind == "conv":
            low += 2 * below.entries + below.base + below.zero  # to find what the holes change below
            high += table.base + table.entries  # sums without a hole, written and read
        return 4 * (low * self.channels_in + high * self.layer.channels)

    @property
    def loop_bytes(self) -> int:
        """Bytes of the layer in one run of the loop in float32, its windows gathered likewise."""
        return 4 * self.table.base * (self.layer.kernel**2 * self.channels_in + self.layer.channels)

    @property
    def _cells_read(self) -> int:
        """Number of cells that all windows read, counted per window."""
        count = self.layer.kernel**2 * self.table.base
        for row, col in self.table.bands:
            count += len(row) * len(col) * len(self.taps(row, col)[0])
        return count
