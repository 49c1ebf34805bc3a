"""The plan along one axis: the distinct ways in which holes meet the cells of each level.

A key is `(cell, I)`: a cell of a level, and the part I of its receptive field that the hole covers, both
along this axis. `compile_axis` starts from the cells that are read out for the holes, walks down the layers
and numbers the distinct keys of every level. `glance_fast.plan.plan` takes the outer product of two such axes.
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

    `lost` are taps whose cells are dead in all of its windows. Bands that were not told apart by them name none.
    """

    keys: slice
    taps: slice
    dead: bool
    lost: tuple[int, ...] = ()

    def __len__(self) -> int:
        return int(self.keys.stop - self.keys.start)

    @property
    def width(self) -> int:
        """Number of taps."""
        return int(self.taps.stop - self.taps.start)


@dataclass(frozen=True)
class Keys:
    """The distinct keys `(cell, I)` of one level along one axis, band by band, alive ones first."""

    cell: Ints
    hole: Ints
    bands: tuple[Band, ...]

    def __len__(self) -> int:
        return len(self.cell)

    @property
    def alive(self) -> int:
        """How many keys are not dead."""
        return sum(len(band) for band in self.bands if not band.dead)


@dataclass(frozen=True)
class Reads:
    """What keys (or plain cells) read along an axis, each [n, kernel]: the cell below, its key, its state."""

    cell: Ints
    key: Ints
    dead: Bools

    def part(self, which: slice, taps: slice = slice(None)) -> Reads:
        """The reads of some keys, at some of the taps of their windows."""
        return Reads(self.cell[which, taps], self.key[which, taps], self.dead[which, taps])

    @property
    def inside(self) -> Bools:
        inside: Bools = self.cell != OUTSIDE
        return inside


@dataclass(frozen=True)
class Hop:
    """How one layer reads the level below along one axis: its plain cells, and its keys."""

    plain: Reads
    keys: Reads


@dataclass(frozen=True)
class Axis:
    """A plan along one axis: the keys of each level (pixels first), a hop a layer, what each hole reads."""

    keys: tuple[Keys, ...]
    hops: tuple[Hop, ...]
    readout: Reads


def compile_axis(layers: Sequence[Layer], sizes: Sequence[int], holes: Ints, readout: int, least: int = 0) -> Axis:
    """Number the keys of all levels for `holes`, first pixel and one past the last, int64 [holes, 2].

    `sizes` are the cells of each level along this axis, pixels first. With `least`, kinds of at least so many keys have
    bands of their own: keys whose windows have the same dead taps, and which lie at the same tap of a pool's window.
    """
    levels = _levels(layers, sizes)
    cells = readout_cells(holes[:, 0], int(holes[0, 1] - holes[0, 0]), readout, total_stride(layers), sizes[-1])
    keys, seen = _number(cells, holes, levels[-1], least)
    numbered, hops = [keys], []
    for level in reversed(levels[1:]):
        plain = level.window(np.arange(len(level.field)))
        untouched = Reads(plain, np.full_like(plain, UNTOUCHED), np.zeros(plain.shape, bool))
        # A pool whose keys are one band reads no runs, however the keys below lie.
        several = sum(not band.dead for band in keys.bands) > 1
        pooled = level.layer.kernel if level.layer and level.layer.kind == "pool" and several else 1
        keys, reads = _number(level.window(keys.cell), keys.hole, level.below, least, pooled)
        hops.append(Hop(untouched, reads))
        numbered.append(keys)
    return Axis(tuple(reversed(numbered)), tuple(reversed(hops)), seen)


@dataclass(frozen=True)
class _Level:
    """A level along one axis: `field` is the first and one past the last pixel that each of its cells sees."""

    field: Ints
    layer: Layer | None = None
    below: _Level | None = None

    def window(self, cells: Ints) -> Ints:
        assert self.layer is not None and self.below is not None
        return self.layer.window(cells, len(self.below.field))

    def meet(self, cells: Ints, holes: Ints) -> tuple[Bools, Bools, Ints]:
        """Which of windows `cells` [n, k] the holes [n, 2] touch, which they cover, and their parts I [n, k, 2]."""
        field = self.field[cells]
        part = np.stack([np.maximum(holes[:, :1], field[..., 0]), np.minimum(holes[:, 1:], field[..., 1])], axis=-1)
        touched = (cells != OUTSIDE) & (part[..., 0] < part[..., 1])
        return touched, touched & (part == field).all(axis=-1), part

    def taps(self, cells: Ints, holes: Ints, dead: Bools) -> tuple[Ints, Ints]:
        """First and one past the last tap of each cell's window that its hole meets; all where that saves nothing."""
        kernel = self.layer.kernel if self.layer else 0
        low, high = np.zeros(len(cells), np.int64), np.full(len(cells), kernel, np.int64)
        if self.layer is not None and self.layer.kind == "conv":
            assert self.below is not None
            touched = self.below.meet(self.window(cells), holes)[0]
            low = np.where(dead, low, touched.argmax(axis=1))
            high = np.where(dead, high, kernel - touched[:, ::-1].argmax(axis=1))
        return low, high

    def lost(self, cells: Ints, holes: Ints, dead: Bools) -> Bools:
        """Which taps of each cell's window are dead, all of a dead cell's; none of a pool's, [n, k]."""
        if self.layer is None or self.layer.kind == "pool":
            return np.zeros((len(cells), 1), bool)
        assert self.below is not None
        return self.below.meet(self.window(cells), holes)[1] | dead[:, None]

    def kinds(self, cells: Ints, holes: Ints, dead: Bools, pooled: int = 1) -> list[Ints]:
        """What tells the keys of a band apart, the more important first, int64 [n] each; 0 is nothing.

        A convolution's by its dead taps and its place in the pool's window above it; a pool's by what its taps are of
        the convolution below, so that each tap of a band's windows reads one band, from its first key to its last.
        """
        if self.layer is None or self.below is None:
            return []
        if self.layer.kind == "conv":
            lost = self.lost(cells, holes, dead)
            return [np.where(lost.any(axis=1), 1 + _numbers(lost), 0), 1 + cells % pooled]
        window = self.window(cells)
        touched, covered, part = self.below.meet(window, holes)
        states = [touched, covered]
        for tap in range(self.layer.kernel):
            read = window[:, tap], part[:, tap], covered[:, tap]
            alive = touched[:, tap] & ~covered[:, tap]
            states += [alive * kind for kind in (*self.below.taps(*read), *self.below.kinds(*read))]
        return [1 + _numbers(np.column_stack(states))]


def _levels(layers: Sequence[Layer], sizes: Sequence[int]) -> list[_Level]:
    pixels = np.arange(sizes[0])
    levels = [_Level(np.stack([pixels, pixels + 1], axis=1))]
    for layer, below, size in zip(layers, sizes, sizes[1:], strict=False):
        reads, field = layer.window(np.arange(size), below), levels[-1].field
        first = np.where(reads == OUTSIDE, below, reads).min(axis=1)
        seen = np.stack([field[first, 0], field[reads.max(axis=1), 1]], axis=1)
        levels.append(_Level(seen, layer, levels[-1]))
    return levels


def _number(cells: Ints, holes: Ints, level: _Level | None, least: int, pooled: int = 1) -> tuple[Keys, Reads]:
    """Number the distinct `(cell, I)` of a level that windows `cells` [n, k] meet under `holes` [n, 2].

    `pooled`: how many of its cells a pool above reads at a time, in runs.
    """
    assert level is not None
    touched, dead, part = level.meet(cells, holes)
    # One integer a key, its parts as digits, sorts and finds the distinct ones far faster than rows would.
    ends = int(level.field.max()) + 1
    digits = (2, len(level.field), ends, ends)
    codes = [dead[touched], cells[touched], part[touched, 0], part[touched, 1]]
    distinct, number = np.unique(np.ravel_multi_index(codes, digits), return_inverse=True)
    is_dead, cell, first, last = np.unravel_index(distinct, digits)
    known = cell, np.stack([first, last], axis=1), is_dead == 1
    alike, lost, kinds = np.stack([is_dead, *level.taps(*known)], axis=1), np.zeros((len(cell), 1), bool), list[Ints]()
    if least and level.layer is not None:
        # The keys of a small band read all taps, as one band: at those that the hole does not meet nothing changes.
        small = (_common(alike, 1 + least // 4) == 0) & (is_dead == 0)
        alike[small, 1:] = 0, level.layer.kernel
        lost, kinds = level.lost(*known), level.kinds(*known, pooled)
    band = _numbers(alike)
    for kind in kinds:
        common = np.where(kind, _common(np.stack([band, kind], axis=1), least), 0)
        band = _numbers(np.stack([band, common], axis=1))
    order = np.argsort(band, kind="stable")
    key = np.full(cells.shape, UNTOUCHED, np.int64)
    key[touched] = np.argsort(order)[number]
    bands = _bands(band[order], alike[order], lost[order])
    return Keys(cell[order], known[1][order], bands), Reads(cells, key, dead)


def _numbers(rows: NDArray[Any]) -> Ints:
    """For each of `rows` [n, m] the number of its like, in the rows' order, int64 [n]."""
    number: Ints = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
    return number


def _common(rows: Ints, least: int) -> Ints:
    """For each of `rows` the number of its like, from 1 on, or 0 where there are fewer than `least` of them."""
    _, number, count = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
    number = number.reshape(-1)
    return np.where(count[number] < least, 0, number + 1)


def _bands(band: Ints, alike: Ints, lost: Bools) -> tuple[Band, ...]:
    """Runs of keys of one band: `alike` [keys, 3] are whether it is dead, its first tap, one past its last."""
    starts = np.flatnonzero(np.diff(band, prepend=-1))
    runs = zip(starts.tolist(), [*starts[1:].tolist(), len(band)], strict=True)
    found = []
    for start, stop in runs:
        dead, low, high = alike[start].tolist()
        everywhere = np.flatnonzero(lost[start:stop].all(axis=0)).tolist()
        found.append(Band(slice(start, stop), slice(low, high), bool(dead), tuple(everywhere)))
    return tuple(found)


def total_stride(layers: Sequence[Layer]) -> int:
    """Pixels between neighbouring cells of the last level."""
    return math.prod(layer.stride for layer in layers)


def readout_cells(starts: Sequence[int] | Ints, patch: int, readout: int, stride: int, size: int) -> Ints:
    """The `readout` cells nearest the centre of each hole, int64 [holes, readout], kept inside the level.

    Along one axis; holes are given by their first pixels, the level has `size` cells `stride` pixels apart.
    """
    first = (2 * np.asarray(starts, np.int64) + patch - (readout - 1) * stride) // (2 * stride)
    return np.clip(first, 0, size - readout)[:, None] + np.arange(readout)
