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
class Keys:
    """The distinct keys `(cell, I)` of one level along one axis; the first `alive` of them are not dead."""

    cell: Ints
    hole: Ints
    alive: int

    def __len__(self) -> int:
        return len(self.cell)


@dataclass(frozen=True)
class Reads:
    """What keys (or plain cells) read along an axis, each [n, kernel]: the cell below, its key, its state."""

    cell: Ints
    key: Ints
    dead: Bools

    def part(self, which: slice) -> Reads:
        return Reads(self.cell[which], self.key[which], self.dead[which])

    @property
    def inside(self) -> Bools:
        inside: Bools = self.cell != OUTSIDE
        return inside


@dataclass(frozen=True)
class Hop:
    """How one layer reads the level below along one axis: its plain cells, and its keys, alive ones first."""

    plain: Reads
    keys: Reads
    alive: int


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
    fields = _receptive_fields(layers, sizes)
    cells = readout_cells(starts, patch, readout, total_stride(layers), sizes[-1])
    keys, seen = _number(cells, np.stack([starts, starts + patch], axis=1), fields[-1])
    levels, hops = [keys], []
    for layer, size_below, size, field in reversed(list(zip(layers, sizes, sizes[1:], fields, strict=False))):
        plain = layer.window(np.arange(size), size_below)
        untouched = Reads(plain, np.full_like(plain, UNTOUCHED), np.zeros(plain.shape, bool))
        alive = keys.alive
        keys, reads = _number(layer.window(keys.cell, size_below), keys.hole, field)
        hops.append(Hop(untouched, reads, alive))
        levels.append(keys)
    return Axis(tuple(reversed(levels)), tuple(reversed(hops)), seen)


def _receptive_fields(layers: Sequence[Layer], sizes: Sequence[int]) -> list[Ints]:
    """First pixel and one past the last pixel that each cell of each level sees inside the image."""
    pixels = np.arange(sizes[0])
    fields = [np.stack([pixels, pixels + 1], axis=1)]
    for layer, below, size in zip(layers, sizes, sizes[1:], strict=False):
        reads = layer.window(np.arange(size), below)
        first = np.where(reads == OUTSIDE, below, reads).min(axis=1)
        fields.append(np.stack([fields[-1][first, 0], fields[-1][reads.max(axis=1), 1]], axis=1))
    return fields


def _number(cells: Ints, holes: Ints, field: Ints) -> tuple[Keys, Reads]:
    """Number the distinct `(cell, I)` that windows `cells` [n, k] meet under `holes` [n, 2], alive first."""
    first = np.maximum(holes[:, :1], field[cells, 0])
    last = np.minimum(holes[:, 1:], field[cells, 1])
    touched = (cells != OUTSIDE) & (first < last)
    dead = touched & (first == field[cells, 0]) & (last == field[cells, 1])
    # One integer a key, its parts as digits, sorts and finds the distinct ones far faster than rows would.
    digits = (2, len(field), int(field.max()) + 1, int(field.max()) + 1)
    codes = np.ravel_multi_index([part[touched] for part in (dead, cells, first, last)], digits)
    distinct, number = np.unique(codes, return_inverse=True)
    key = np.full(cells.shape, UNTOUCHED, np.int64)
    key[touched] = number
    is_dead, cell, low, high = np.unravel_index(distinct, digits)
    keys = Keys(cell, np.stack([low, high], axis=1), int((is_dead == 0).sum()))
    return keys, Reads(cells, key, dead)


def total_stride(layers: Sequence[Layer]) -> int:
    """Pixels between neighbouring cells of the last level."""
    return math.prod(layer.stride for layer in layers)


def readout_cells(starts: Sequence[int] | Ints, patch: int, readout: int, stride: int, size: int) -> Ints:
    """The `readout` cells nearest the centre of each hole, int64 [holes, readout], kept inside the level.

    Along one axis; holes are given by their first pixels, the level has `size` cells `stride` pixels apart.
    """
    first = (2 * np.asarray(starts, np.int64) + patch - (readout - 1) * stride) // (2 * stride)
    return np.clip(first, 0, size - readout)[:, None] + np.arange(readout)
