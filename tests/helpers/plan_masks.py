"""The entries of a plan by masks: every location alone, every receptive field grown in two dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from glance_fast.models.global_net import global_layers
from glance_fast.plan.layer import Layer, conv, pool
from glance_fast.plan.patches import grid_starts
from glance_fast.plan.plan import Plan, compile_plan, refine_bands
from glance_fast.plan.step import Step

EntryKey = tuple[int, int, tuple[int, int], tuple[int, int]]
Masks = NDArray[np.bool_]


def receptive_fields(layers: Sequence[Layer], size: tuple[int, int]) -> list[Masks]:
    """For each level, which pixels each cell sees, by growing masks in two dimensions: bool [h, w, H, W]."""
    count = size[0] * size[1]
    fields = [np.eye(count, dtype=bool).reshape(*size, *size)]
    for layer in layers:
        height, width = (layer.size(side) for side in fields[-1].shape[:2])
        grown = np.zeros((height, width, *size), bool)
        for y, x in product(range(height), range(width)):
            for below in window(layer, (y, x), fields[-1].shape):
                grown[y, x] |= fields[-1][below]
        fields.append(grown)
    return fields


def window(layer: Layer, cell: tuple[int, int], below: Sequence[int]) -> list[tuple[int, int]]:
    """The cells inside the level below that a cell reads."""
    spans = [range(c * layer.stride - layer.pad, c * layer.stride - layer.pad + layer.kernel) for c in cell]
    return [(y, x) for y, x in product(*spans) if 0 <= y < below[0] and 0 <= x < below[1]]


def nearest_cells(start: int, patch: int, readout: int, stride: int, size: int) -> range:
    """The run of `readout` cells whose middle is nearest the hole's, the later of two as near."""
    firsts = range(size - readout + 1)
    away = [abs((first + readout / 2) * stride - (start + patch / 2)) for first in firsts]
    first = max(f for f in firsts if away[f] == min(away))
    return range(first, first + readout)


def bounds(mask: Masks) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and one past the last row and column of a mask that is a full rectangle."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    rectangle = (int(rows[0]), int(rows[-1]) + 1), (int(cols[0]), int(cols[-1]) + 1)
    assert mask.sum() == (rectangle[0][1] - rectangle[0][0]) * (rectangle[1][1] - rectangle[1][0])
    return rectangle


def entries_by_masks(layers: Sequence[Layer], plan: Plan) -> list[set[EntryKey]]:
    """The distinct (cell, I) of each level, pixels first, found by walking down from every location alone."""
    fields = receptive_fields(layers, plan.image_size)
    stride = int(np.prod([layer.stride for layer in layers]))
    side = int(np.sqrt(plan.readout.shape[1]))
    entries: list[set[EntryKey]] = [set() for _ in fields]
    for start in product(plan.holes_y, plan.holes_x):
        hole = np.zeros(plan.image_size, bool)
        last = (max(start[0] + plan.patch, 0), max(start[1] + plan.patch, 0))
        hole[max(start[0], 0) : last[0], max(start[1], 0) : last[1]] = True
        rows, cols = (nearest_cells(start[a], plan.patch, side, stride, fields[-1].shape[a]) for a in (0, 1))
        needed = set(product(rows, cols))
        for level in range(len(layers), -1, -1):
            for cell in needed:
                covered = fields[level][cell] & hole
                if covered.any() and (covered != fields[level][cell]).any():
                    entries[level].add((cell[0], cell[1], *bounds(covered)))
            if level:
                below = fields[level - 1].shape
                needed = {read for cell in needed for read in window(layers[level - 1], cell, below)}
    return entries


def entries_of(step: Step) -> list[EntryKey]:
    """The keys of a table's entries in the order of its rows."""
    rows, cols = step.table.rows, step.table.cols
    every = np.arange(max(len(rows), len(cols)))
    pairs = [pair for row, col in step.table.bands for pair in product(every[row.keys], every[col.keys])]
    return [
        (int(rows.cell[r]), int(cols.cell[c]), (int(rows.hole[r, 0]), int(rows.hole[r, 1])), (int(a), int(b)))
        for r, c in pairs
        for a, b in [cols.hole[c]]
    ]


def grid_plan(layers: Sequence[Layer], size: tuple[int, int], patch: int, stride: int, readout: int = 1) -> Plan:
    holes = (grid_starts(size[0], patch, stride), grid_starts(size[1], patch, stride))
    return compile_plan(layers, size, patch, holes, readout)


def padded_plan(layers: Sequence[Layer], size: tuple[int, int], patch: int, stride: int) -> Plan:
    """Holes that reach beyond every border by up to a pixel less than a whole patch."""
    holes = [range(1 - patch, side, stride) for side in size]
    return compile_plan(layers, size, patch, (holes[0], holes[1]))


PLANS: dict[str, tuple[list[Layer], tuple[int, int], int, int, int]] = {
    "odd": (global_layers((4, 5, 6), 1), (17, 22), 6, 3, 1),
    "two convolutions": (global_layers((4, 5, 6), 2), (16, 19), 5, 4, 2),
    "every pixel": (global_layers((4, 5), 1), (12, 13), 4, 1, 1),
    "large patch": (global_layers((4, 5, 6), 1), (20, 16), 12, 4, 2),
    "blind": (global_layers((4,), 1), (14, 15), 8, 3, 1),
    "other kernels": ([conv(4, 5), pool(4, 3), conv(6, 1), conv(5)], (18, 23), 7, 4, 2),
    "pool first": ([pool(3), conv(4), pool(4), conv(4)], (19, 18), 6, 4, 1),
}


def refined_plan(name: str, min_keys: int) -> Plan:
    """One of PLANS, as it is where `min_keys` is 0, or refined; from 4 on small bands are joined."""
    plan = grid_plan(*PLANS[name])
    return refine_bands(plan, min_keys) if min_keys else plan
