"""The plan along one axis: the distinct ways in which holes meet the cells of each level.

A key is `(cell, I)`: a cell of a level, and the part I of its receptive field that the hole covers, both
along this axis. `compile_axis` starts from the cells that are read out for the holes, walks down the layers
and numbers the distinct keys of every level. `glance_fast.plan` takes the outer product of two such axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glance_fast.layers import OUTSIDE, Ints, Layer

Bools = NDArray[np.bool_]

UNTOUCHED = -1


@dataclass(frozen=True)
class Band:
    """Consecutive keys, all alive or all dead, whose windows the hole meets in the same taps."""

    keys: slice
    taps: slice
    dead: bool

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


def compile_axis(
    layers: Sequence[Layer], sizes: Sequence[int], starts: Ints, patch: int, readout: int
) -> Axis:
    """Number the keys of all levels for holes of `patch` pixels at `starts`.

    `sizes` are the cells of each level along this axis, pixels first.
    """
    levels = _levels(layers, sizes)
    cells = readout_cells(starts, patch, readout, total_stride(layers), sizes[-1])
    keys, seen = _number(cells, np.stack([starts, starts + patch], axis=1), levels[-1])
    numbered, hops = [keys], []
    for level in reversed(levels[1:]):
        plain = level.window(np.arange(len(level.field)))
        untouched = Reads(plain, np.full_like(plain, UNTOUCHED), np.zeros(plain.shape, bool))
        keys, reads = _number(level.window(keys.cell), keys.hole, level.below)
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


def _levels(layers: Sequence[Layer], sizes: Sequence[int]) -> list[_Level]:
    pixels = np.arange(sizes[0])
    levels = [_Level(np.stack([pixels, pixels + 1], axis=1))]
    for layer, below, size in zip(layers, sizes, sizes[1:], strict=False):
        reads, field = layer.window(np.arange(size), below), levels[-1].field
        first = np.where(reads == OUTSIDE, below, reads).min(axis=1)
        seen = np.stack([field[first, 0], field[reads.max(axis=1), 1]], axis=1)
        levels.append(_Level(seen, layer, levels[-1]))
    return levels


def _number(cells: Ints, holes: Ints, level: _Level | None) -> tuple[Keys, Reads]:
    """Number the distinct `(cell, I)` of a level that windows `cells` [n, k] meet under `holes` [n, 2]."""
    assert level is not None
    touched, dead, part = level.meet(cells, holes)
    # One integer a key, its parts as digits, sorts and finds the distinct ones far faster than rows would.
    ends = int(level.field.max()) + 1
    digits = (2, len(level.field), ends, ends)
    codes = [dead[touched], cells[touched], part[touched, 0], part[touched, 1]]
    distinct, number = np.unique(np.ravel_multi_index(codes, digits), return_inverse=True)
    is_dead, cell, first, last = np.unravel_index(distinct, digits)
    hole = np.stack([first, last], axis=1)
    low, high = level.taps(cell, hole, is_dead == 1)
    order = np.lexsort([high, low, is_dead])
    key = np.full(cells.shape, UNTOUCHED, np.int64)
    key[touched] = np.argsort(order)[number]
    bands = _bands(np.stack([is_dead, low, high], axis=1)[order])
    return Keys(cell[order], hole[order], bands), Reads(cells, key, dead)


def _bands(alike: Ints) -> tuple[Band, ...]:
    """Runs of equal rows (dead, first tap, one past the last tap) of `alike` [keys, 3]."""
    starts = np.flatnonzero(np.r_[True, (alike[1:] != alike[:-1]).any(axis=1)][: len(alike)])
    runs = zip(starts.tolist(), [*starts[1:].tolist(), len(alike)], strict=True)
    return tuple(Band(slice(a, b), slice(*alike[a, 1:].tolist()), bool(alike[a, 0])) for a, b in runs)


def total_stride(layers: Sequence[Layer]) -> int:
    """Pixels between neighbouring cells of the last level."""
    return math.prod(layer.stride for layer in layers)


def readout_cells(starts: Sequence[int] | Ints, patch: int, readout: int, stride: int, size: int) -> Ints:
    """The `readout` cells nearest the centre of each hole, int64 [holes, readout], kept inside the level.

    Along one axis; holes are given by their first pixels, the level has `size` cells `stride` pixels apart.
    """
    first = (2 * np.asarray(starts, np.int64) + patch - (readout - 1) * stride) // (2 * stride)
    return np.clip(first, 0, size - readout)[:, None] + np.arange(readout)
