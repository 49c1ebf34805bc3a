"""The plan along one axis: the distinct ways in which holes meet the cells of each level.

A key is `(cell, I)`: a cell of a level, and the part I of its receptive field that the hole covers, both
along this axis. `compile_axis` starts from the cells that are read out for the holes, walks down the layers
and numbers the distinct keys of every level. `glance_fast.plan.plan` takes the outer product of two such axes.

A cell is touched if its receptive field meets the hole, dead if the hole covers that field, and alive otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glance_fast.plan.layer import OUTSIDE, Ints, Layer

Bools = NDArray[np.bool_]

UNTOUCHED = -1


@dataclass(frozen=True)
class Band:
    """Consecutive keys, all alive or all dead, whose windows the hole meets in the same taps.

    `dead_taps`: taps whose cells are dead in all of the band's windows. Empty unless the plan was refined by dead taps.
    """

    keys: slice
    taps: slice
    dead: bool
    dead_taps: tuple[int, ...] = ()

    def __len__(self) -> int:
        return int(self.keys.stop - self.keys.start)

    @property
    def width(self) -> int:
        """Number of taps."""
        return int(self.taps.stop - self.taps.start)


@dataclass(frozen=True)
class Keys:
    """The distinct keys `(cell, I)` of one level along one axis, band by band, those that are alive first.

    `cell` int64 [keys]; `hole` int64 [keys, 2]: the first pixel of I and one past its last.
    """

    cell: Ints
    hole: Ints
    bands: tuple[Band, ...]

    def __len__(self) -> int:
        return len(self.cell)

    @property
    def alive(self) -> int:
        """Number of keys that are not dead."""
        return sum(len(band) for band in self.bands if not band.dead)


@dataclass(frozen=True)
class WindowSources:
    """What the windows of keys, or of plain cells, read along an axis, each [n, kernel].

    `cell` int64: the cell below, OUTSIDE beyond the border. `key` int64: that cell's key, UNTOUCHED where the hole does
    not meet it. `dead` bool: whether that key is dead.
    """

    cell: Ints
    key: Ints
    dead: Bools

    def part(self, keys: slice, taps: slice = slice(None)) -> WindowSources:
        """The sources of a range of keys at a range of the taps of their windows."""
        return WindowSources(self.cell[keys, taps], self.key[keys, taps], self.dead[keys, taps])

    @property
    def inside(self) -> Bools:
        """Which taps read a cell of the level, bool [n, kernel]."""
        inside: Bools = self.cell != OUTSIDE
        return inside


@dataclass(frozen=True)
class Transition:
    """How one layer reads the level below along one axis: the windows of its plain cells, and of its keys."""

    plain: WindowSources
    keys: WindowSources


@dataclass(frozen=True)
class Axis:
    """A plan along one axis: the keys of each level (pixels first), a transition per layer, and what holes read.

    `readout`: the cells of the last level that each hole reads, [holes, readout].
    """

    keys: tuple[Keys, ...]
    transitions: tuple[Transition, ...]
    readout: WindowSources


def compile_axis(layers: Sequence[Layer], sizes: Sequence[int], holes: Ints, readout: int, min_keys: int = 0) -> Axis:
    """Number the keys of all levels for `holes`, first pixel and one past the last, int64 [holes, 2].

    `sizes`: number of cells of each level along this axis, pixels first. With `min_keys` > 0, bands are subdivided by
    `_Level.refinements` into bands of at least that many keys.
    """
    levels = _levels(layers, sizes)
    cells = readout_cells(holes[:, 0], int(holes[0, 1] - holes[0, 0]), readout, total_stride(layers), sizes[-1])
    keys, readout_sources = _number(cells, holes, levels[-1], min_keys)
    numbered, transitions = [keys], []
    for level in reversed(levels[1:]):
        plain = level.window(np.arange(len(level.field)))
        untouched = WindowSources(plain, np.full_like(plain, UNTOUCHED), np.zeros(plain.shape, bool))
        # A pool whose keys are one band reads no runs, however the keys below lie.
        several = sum(not band.dead for band in keys.bands) > 1
        pool_size = level.layer.kernel if level.layer and level.layer.kind == "pool" and several else 1
        keys, sources = _number(level.window(keys.cell), keys.hole, level.below, min_keys, pool_size)
        transitions.append(Transition(untouched, sources))
        numbered.append(keys)
    return Axis(tuple(reversed(numbered)), tuple(reversed(transitions)), readout_sources)


@dataclass(frozen=True)
class _HoledCells:
    """Cells of a level under a hole each: `cell` int64 [n], `hole` int64 [n, 2] or the part of it that each sees.

    `dead` bool [n]: which of them the hole covers.
    """

    cell: Ints
    hole: Ints
    dead: Bools


@dataclass(frozen=True)
class _Level:
    """A level along one axis; `field` int64 [cells, 2]: the first and one past the last pixel that each cell sees."""

    field: Ints
    layer: Layer | None = None
    below: _Level | None = None

    def window(self, cells: Ints) -> Ints:
        """The cells below that `cells` [n] read, int64 [n, kernel]."""
        assert self.layer is not None and self.below is not None
        return self.layer.window(cells, len(self.below.field))

    def coverage(self, cells: Ints, holes: Ints) -> tuple[Bools, Bools, Ints]:
        """Which of windows `cells` [n, k] the holes [n, 2] touch, which they cover, and their parts I [n, k, 2]."""
        field = self.field[cells]
        part = np.stack([np.maximum(holes[:, :1], field[..., 0]), np.minimum(holes[:, 1:], field[..., 1])], axis=-1)
        touched = (cells != OUTSIDE) & (part[..., 0] < part[..., 1])
        return touched, touched & (part == field).all(axis=-1), part

    def touched_taps(self, holed: _HoledCells) -> tuple[Ints, Ints]:
        """First and one past the last tap of each cell's window that its hole meets, int64 [n] each.

        All taps for dead cells and for a pool, where leaving taps out saves nothing.
        """
        kernel = self.layer.kernel if self.layer else 0
        low, high = np.zeros(len(holed.cell), np.int64), np.full(len(holed.cell), kernel, np.int64)
        if self.layer is not None and self.layer.kind == "conv":
            assert self.below is not None
            touched = self.below.coverage(self.window(holed.cell), holed.hole)[0]
            low = np.where(holed.dead, low, touched.argmax(axis=1))
            high = np.where(holed.dead, high, kernel - touched[:, ::-1].argmax(axis=1))
        return low, high

    def dead_taps(self, holed: _HoledCells) -> Bools:
        """Which taps of each cell's window are dead, bool [n, k]: all of a dead cell's, none of a pool's."""
        if self.layer is None or self.layer.kind == "pool":
            return np.zeros((len(holed.cell), 1), bool)
        assert self.below is not None
        return self.below.coverage(self.window(holed.cell), holed.hole)[1] | holed.dead[:, None]

    def refinements(self, holed: _HoledCells, pool_size: int = 1) -> list[Ints]:
        """Criteria that subdivide a band, most important first, int64 [n] each; 0 means 'no subdivision'.

        For a convolution: its dead taps, then its position in the window of the pool above. For a pool: what its taps
        are in the convolution below, so that each tap of a band's windows reads one band, from first key to last.
        """
        if self.layer is None or self.below is None:
            return []
        if self.layer.kind == "conv":
            dead_taps = self.dead_taps(holed)
            return [np.where(dead_taps.any(axis=1), 1 + _group_index(dead_taps), 0), 1 + holed.cell % pool_size]
        window = self.window(holed.cell)
        touched, covered, part = self.below.coverage(window, holed.hole)
        states = [touched, covered]
        for tap in range(self.layer.kernel):
            source = _HoledCells(window[:, tap], part[:, tap], covered[:, tap])
            alive = touched[:, tap] & ~covered[:, tap]
            criteria = *self.below.touched_taps(source), *self.below.refinements(source)
            states += [alive * criterion for criterion in criteria]
        return [1 + _group_index(np.column_stack(states))]


def _levels(layers: Sequence[Layer], sizes: Sequence[int]) -> list[_Level]:
    pixels = np.arange(sizes[0])
    levels = [_Level(np.stack([pixels, pixels + 1], axis=1))]
    for layer, below, size in zip(layers, sizes, sizes[1:], strict=False):
        window, field = layer.window(np.arange(size), below), levels[-1].field
        first = np.where(window == OUTSIDE, below, window).min(axis=1)
        seen = np.stack([field[first, 0], field[window.max(axis=1), 1]], axis=1)
        levels.append(_Level(seen, layer, levels[-1]))
    return levels


def _number(
    cells: Ints, holes: Ints, level: _Level | None, min_keys: int, pool_size: int = 1
) -> tuple[Keys, WindowSources]:
    """Number the distinct `(cell, I)` of a level that windows `cells` [n, k] meet under `holes` [n, 2].

    `pool_size`: the window of the pool above that reads this level in runs of keys; 1 without one.
    """
    assert level is not None
    touched, dead, part = level.coverage(cells, holes)
    # One integer per key, its parts as digits, sorts and finds the distinct ones far faster than rows would.
    ends = int(level.field.max()) + 1
    digits = (2, len(level.field), ends, ends)
    codes = [dead[touched], cells[touched], part[touched, 0], part[touched, 1]]
    distinct, number = np.unique(np.ravel_multi_index(codes, digits), return_inverse=True)
    is_dead, cell, first, last = np.unravel_index(distinct, digits)
    holed = _HoledCells(cell, np.stack([first, last], axis=1), is_dead == 1)
    band_key = np.stack([is_dead, *level.touched_taps(holed)], axis=1)
    dead_taps, refinements = np.zeros((len(cell), 1), bool), list[Ints]()
    if min_keys and level.layer is not None:
        # The keys of a small band read all taps, as one band: at those that the hole does not meet nothing changes.
        small = (_group_index_if_common(band_key, 1 + min_keys // 4) == 0) & (is_dead == 0)
        band_key[small, 1:] = 0, level.layer.kernel
        dead_taps, refinements = level.dead_taps(holed), level.refinements(holed, pool_size)
    band = _group_index(band_key)
    for criterion in refinements:
        common = np.where(criterion, _group_index_if_common(np.stack([band, criterion], axis=1), min_keys), 0)
        band = _group_index(np.stack([band, common], axis=1))
    order = np.argsort(band, kind="stable")
    key = np.full(cells.shape, UNTOUCHED, np.int64)
    key[touched] = np.argsort(order)[number]
    bands = _bands(band[order], band_key[order], dead_taps[order])
    return Keys(cell[order], holed.hole[order], bands), WindowSources(cells, key, dead)


def _group_index(rows: NDArray[Any]) -> Ints:
    """Index of each row's group of equal rows of `rows` [n, m], in sorted order (np.unique's inverse), int64 [n]."""
    index: Ints = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
    return index


def _group_index_if_common(rows: Ints, min_count: int) -> Ints:
    """One plus the index of each row's group of equal rows, or 0 where the group has fewer than `min_count` rows."""
    _, index, count = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
    index = index.reshape(-1)
    return np.where(count[index] < min_count, 0, index + 1)


def _bands(band: Ints, band_key: Ints, dead_taps: Bools) -> tuple[Band, ...]:
    """The bands of keys sorted by `band` [keys]; `band_key` [keys, 3]: dead or not, first tap, one past the last."""
    starts = np.flatnonzero(np.diff(band, prepend=-1))
    runs = zip(starts.tolist(), [*starts[1:].tolist(), len(band)], strict=True)
    bands = []
    for start, stop in runs:
        dead, low, high = band_key[start].tolist()
        in_all_windows = np.flatnonzero(dead_taps[start:stop].all(axis=0)).tolist()
        bands.append(Band(slice(start, stop), slice(low, high), bool(dead), tuple(in_all_windows)))
    return tuple(bands)


def total_stride(layers: Sequence[Layer]) -> int:
    """Pixels between neighbouring cells of the last level."""
    return math.prod(layer.stride for layer in layers)


def readout_cells(starts: Sequence[int] | Ints, patch: int, readout: int, stride: int, size: int) -> Ints:
    """The `readout` cells nearest the centre of each hole, int64 [holes, readout], kept inside the level.

    Along one axis; `starts` are the holes' first pixels, the level has `size` cells `stride` pixels apart.
    """
    first = (2 * np.asarray(starts, np.int64) + patch - (readout - 1) * stride) // (2 * stride)
    return np.clip(first, 0, size - readout)[:, None] + np.arange(readout)
