"""Tables: how the cells of a level lie in memory, and which rows a window reads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product

import numpy as np

from glance_fast.plan.axis import UNTOUCHED, Band, Keys, WindowSources
from glance_fast.plan.layer import Ints


@dataclass(frozen=True)
class Table:
    """The layout of a level's values in memory, one row of channels per cell: `base | entries | a zero row`.

    The entries are the outer products of the axes' bands, one after the other, without those that are dead along both.
    What follows from the bands is kept: a step asks for it once per block, of which a refined plan has thousands.
    """

    rows: Keys
    cols: Keys
    base_shape: tuple[int, int]

    @property
    def base(self) -> int:
        """Number of base cells: the level's height times its width."""
        return self.base_shape[0] * self.base_shape[1]

    @cached_property
    def entries(self) -> int:
        """Number of entries."""
        return sum(len(row) * len(col) for row, col in self.bands)

    @property
    def zero(self) -> int:
        """The row that dead cells and cells outside the image point at."""
        return self.base + self.entries

    @cached_property
    def bands(self) -> list[tuple[Band, Band]]:
        """The pairs of bands whose outer products are the entries, in the order of their rows."""
        return [pair for pair in product(self.rows.bands, self.cols.bands) if not (pair[0].dead and pair[1].dead)]

    @property
    def spans(self) -> list[slice]:
        """The entries of each pair of `bands`."""
        ends = np.cumsum([0, *(len(row) * len(col) for row, col in self.bands)]).tolist()
        return [slice(*span) for span in pairwise(ends)]

    def find(self, rows: WindowSources, cols: WindowSources) -> Ints:
        """Table rows that the windows of `rows` x `cols` read, int64 [n_rows * n_cols, taps]."""
        windows = OuterWindows(rows, cols)
        row = np.where(windows.touched, self._entry(*windows.keys), windows.cell(self.base_shape[1]))
        return windows.flat(np.where(windows.outside | windows.dead, self.zero, row))

    def find_changes(self, rows: WindowSources, cols: WindowSources) -> Ints:
        """Rows of the table of changes that windows read, int64 [n_rows * n_cols, taps].

        Its rows are `entries, less their base cells | minus the base cells | a zero row`.
        """
        windows = OuterWindows(rows, cols)
        minus_base = self.entries + windows.cell(self.base_shape[1])
        row = np.where(windows.dead, minus_base, self._entry(*windows.keys) - self.base)
        return windows.flat(np.where(windows.touched, row, self.zero))

    def base_index(self) -> Ints:
        """The base cell of each entry, int64 [entries]: its value is the entry's value without a hole."""
        cells = [
            self.rows.cell[row.keys, None] * self.base_shape[1] + self.cols.cell[col.keys] for row, col in self.bands
        ]
        return np.concatenate([np.zeros(0, np.int64), *(cell.ravel() for cell in cells)])

    def block_offsets(self) -> Ints:
        """The first entry of each block, int64 [row bands * column bands, at least 1]; dead ones count as empty."""
        sizes = np.outer([len(band) for band in self.rows.bands], [len(band) for band in self.cols.bands])
        dead = np.outer([band.dead for band in self.rows.bands], [band.dead for band in self.cols.bands])
        stored = np.where(dead, 0, sizes).ravel()
        return np.cumsum(stored) - stored if len(stored) else np.zeros(1, np.int64)

    def _entry(self, row: Ints, col: Ints) -> Ints:
        """Table rows of the entries (row, col), for keys of both axes; any number where there is no such entry."""
        (row_band, row_start, _), (col_band, col_start, width), block_offsets = self._offsets
        first = block_offsets[row_band[row] * len(self.cols.bands) + col_band[col]]
        entry: Ints = self.base + first + (row - row_start[row]) * width[col] + col - col_start[col]
        return entry

    @cached_property
    def _offsets(self) -> tuple[tuple[Ints, Ints, Ints], tuple[Ints, Ints, Ints], Ints]:
        """`band_offsets` of the rows and of the columns, and `block_offsets`."""
        return band_offsets(self.rows), band_offsets(self.cols), self.block_offsets()


def band_offsets(keys: Keys) -> tuple[Ints, Ints, Ints]:
    """For each key its band's number, first key and length; one more of each, for UNTOUCHED to point at."""
    lengths = np.array([len(band) for band in keys.bands], np.int64)
    bands = np.stack([np.arange(len(lengths)), np.cumsum(lengths) - lengths, lengths])
    number, start, length = np.pad(np.repeat(bands, lengths, axis=1), ((0, 0), (0, 1)))
    return number, start, length


class OuterWindows:
    """The windows of `rows` x `cols`: what their taps read, each bool or int64 [n_rows, n_cols, taps, taps]."""

    def __init__(self, rows: WindowSources, cols: WindowSources) -> None:
        self._row, self._col = (slice(None), None, slice(None), None), (None, slice(None), None, slice(None))
        self._rows, self._cols = rows, cols
        self.keys = rows.key[self._row], cols.key[self._col]
        self.touched = (self.keys[0] != UNTOUCHED) & (self.keys[1] != UNTOUCHED)
        self.outside = ~rows.inside[self._row] | ~cols.inside[self._col]
        self.dead = rows.dead[self._row] & cols.dead[self._col]

    def cell(self, width: int) -> Ints:
        """The cells' numbers in a level `width` cells wide."""
        cell: Ints = self._rows.cell[self._row] * width + self._cols.cell[self._col]
        return cell

    @staticmethod
    def flat(values: Ints) -> Ints:
        """One row per window: int64 [n_rows * n_cols, taps * taps]."""
        return values.reshape(values.shape[0] * values.shape[1], values.shape[2] * values.shape[3])
