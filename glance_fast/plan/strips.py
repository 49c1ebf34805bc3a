"""A plan of a large image in strips: ranges of rows of locations, each with a plan of the image rows that they see.

A location reads a few cells, which see a part of the image. The image rows of a strip begin where the cells of all
levels begin, so its plan computes the very cells that the plan of the image would: the same numbers, in memory that
does not grow with the image's height. Strips in the middle of the image share one plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from glance_fast.plan.axis import readout_cells, total_stride
from glance_fast.plan.layer import Layer
from glance_fast.plan.plan import Plan, compile_plan

# Compiled plans by the height of their strip and the first pixels of its holes within it.
_Compiled = dict[tuple[int, tuple[int, ...]], Plan]


@dataclass(frozen=True)
class Strip:
    """`rows` of the image, and the plan for the locations in it, which follow those of the strip before."""

    rows: slice
    plan: Plan


def cut_strips(plan: Plan, max_bytes: int) -> list[Strip]:
    """Cut a plan into strips whose tables take at most `max_bytes`, or else into single rows of locations."""
    if plan.peak_bytes <= max_bytes:
        return [Strip(slice(0, plan.image_size[0]), plan)]
    count = len(plan.holes_y)
    while count > 1:
        count = (count + 1) // 2
        # In the middle of the image a strip sees the most.
        middle = max(0, (len(plan.holes_y) - count) // 2)
        if _strip(plan, plan.holes_y[middle : middle + count], {}).plan.peak_bytes <= max_bytes:
            break
    return list(_strips_of(plan, count))


def _strips_of(plan: Plan, count: int) -> Iterator[Strip]:
    """Strips of `count` rows of locations each."""
    compiled: _Compiled = {}
    for low in range(0, len(plan.holes_y), count):
        yield _strip(plan, plan.holes_y[low : low + count], compiled)


def _strip(plan: Plan, holes: tuple[int, ...], compiled: _Compiled) -> Strip:
    layers, readout = [step.layer for step in plan.steps], round(plan.readout.shape[1] ** 0.5)
    rows = _visible_rows(plan, layers, holes, readout)
    key = (rows.stop - rows.start, tuple(hole - rows.start for hole in holes))
    if key not in compiled:
        size, starts = (key[0], plan.image_size[1]), (key[1], plan.holes_x)
        compiled[key] = compile_plan(layers, size, plan.patch, starts, readout, plan.steps[0].channels_in)
    return Strip(rows, compiled[key])


def _visible_rows(plan: Plan, layers: list[Layer], holes: tuple[int, ...], readout: int) -> slice:
    """The image rows that the read-outs of these rows of holes see, from a row where cells of all levels begin."""
    sizes = [table.base_shape[0] for table in plan.tables]
    step = total_stride(layers)
    cells = readout_cells(holes, plan.patch, readout, step, sizes[-1])
    low, high = int(cells.min()), int(cells.max())
    for layer, below in zip(reversed(layers), reversed(sizes[:-1]), strict=True):
        low = max(0, low * layer.stride - layer.pad)
        high = min(below - 1, high * layer.stride - layer.pad + layer.kernel - 1)
    return slice(low // step * step, min(sizes[0], -(-(high + 1) // step) * step))
