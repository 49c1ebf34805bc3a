"""The plan: every cell that the per-patch loop would ever compute, named once, before any image is seen.

The loop runs Global-Net once for each hole. What a run leaves in a cell depends only on *where the hole
meets the cell's receptive field*, and that is a rectangle, so it splits into one interval an axis:

    key of a cell  =  (y, I_y) x (x, I_x),      I = hole ∩ receptive field

A cell whose key is empty along either axis is not touched by the hole: it is a **base** cell, shared by all
locations. Every other key is an **entry**, shared by all locations that meet the cell in the same way. A key
that fills its receptive field along both axes sees nothing at all: it is **dead**, its value is 0, and it is
never stored.

Because keys split by axis, so does all the work of finding them. `compile_axis` starts from the cells that
are read out for the holes' positions along one axis, walks down the layers and numbers the distinct
`(cell, I)` of every level: a few hundred. A level of the plan is the outer product of two such lists.

A convolution's entry does not start anew. What its window sums to without a hole is known from the base; it adds what
the hole changes at the taps that it touches, again a rectangle of row taps and column taps. Keys that are touched at
the same taps lie side by side in **bands**, and two bands, one of each axis, make a **block**: one matrix product.

This module is plain numpy; `glance_fast.dense` runs a plan, `docs/plan.md` explains it in pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product

import numpy as np

from glance_fast.axis import Band, Hop, compile_axis
from glance_fast.errors import ConfigError
from glance_fast.layers import Ints, Layer
from glance_fast.table import Table

# Share of a window's taps up to which the changes at them are added to its sum without a hole.
MOST_TOUCHED = 0.7
# What reading that sum costs a channel out, where reading a tap of a window costs 1 a channel in.
SUM = 1.0
# Keys that a kind must have to get a band of its own in a split plan: fewer make products too small to be worth it.
LEAST = 20


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


@dataclass(frozen=True)
class Plan:
    """The dense pass for one image size, one set of holes and one Global-Net: `str(plan)` is its table.

    `holes_y`, `holes_x`: first pixels of the holes, whose outer product is the set of locations.
    `readout`: table rows of the last level that each location reads, int64 [locations, readout * readout].
    """

    steps: tuple[Step, ...]
    image_size: tuple[int, int]
    patch: int
    holes_y: tuple[int, ...]
    holes_x: tuple[int, ...]
    readout: Ints

    @property
    def tables(self) -> list[Table]:
        """The tables of all levels, pixels first."""
        return [self.steps[0].below, *(step.table for step in self.steps)]

    @property
    def locations(self) -> int:
        return len(self.holes_y) * len(self.holes_x)

    @property
    def macs(self) -> int:
        """Multiply-adds of the dense pass for one image: every distinct cell once."""
        return sum(step.macs for step in self.steps)

    @property
    def bytes(self) -> int:
        """Bytes that the dense pass reads and writes for one image in float32."""
        return sum(step.bytes for step in self.steps)

    @property
    def peak(self) -> int:
        """Bytes of the tables that the dense pass holds at once for one image in float32, and of their row numbers."""
        held = (2 * step.below.zero * step.channels_in + step.table.zero * step.layer.channels for step in self.steps)
        numbers = sum(step.table.entries * step.layer.kernel**2 for step in self.steps)
        return 4 * (max(held) + numbers)

    @property
    def loop_macs(self) -> int:
        """Multiply-adds of the per-patch loop for one image: every cell of every layer for every location."""
        return self.locations * sum(step.loop_macs for step in self.steps)

    @property
    def loop_bytes(self) -> int:
        """Bytes that the loop reads and writes for one image in float32, its windows gathered likewise."""
        return self.locations * sum(step.loop_bytes for step in self.steps)

    def blind(self) -> int:
        """Number of locations whose whole read-out is dead: the hole covers all that it could see."""
        return int((self.readout == self.steps[-1].table.zero).all(axis=1).sum())

    def __str__(self) -> str:
        head = f"{'layer':<15}{'cells':>9}{'base':>9}{'entries':>9}{'GMAC':>8}{'loop':>9}{'MB':>7}{'loop':>9}"
        lines = [head]
        for i, step in enumerate(self.steps):
            name = f"{i} {step.layer.kind} {step.channels_in}→{step.layer.channels}"
            cells = "{}x{}".format(*step.table.base_shape)
            macs, moved = (step.macs, self.locations * step.loop_macs), (step.bytes, self.locations * step.loop_bytes)
            lines.append(_line(name, cells, (step.table.base, step.table.entries), (*macs, *moved)))
        total = tuple(sum(getattr(step.table, part) for step in self.steps) for part in ("base", "entries"))
        lines.append(_line("total", "", total, (self.macs, self.loop_macs, self.bytes, self.loop_bytes)))
        ratios = self.loop_macs / max(self.macs, 1), self.loop_bytes / self.bytes
        saved = "{:.1f} times the multiply-adds and {:.1f} times the bytes".format(*ratios)
        lines.append(f"The loop's {self.locations:,} runs take {saved} of the dense pass.")
        return "\n".join(lines)


def _line(name: str, cells: str, counts: tuple[int, ...], costs: tuple[int, ...]) -> str:
    numbers = "".join(f"{count:>9,}" for count in counts)
    macs = f"{costs[0] / 1e9:>8.2f}{costs[1] / 1e9:>9.2f}"
    return f"{name:<15}{cells:>9}{numbers}{macs}{costs[2] / 1e6:>7.0f}{costs[3] / 1e6:>9,.0f}"


def compile_plan(
    layers: Sequence[Layer],
    image_size: tuple[int, int],
    patch: int,
    holes: tuple[Sequence[int], Sequence[int]],
    readout: int = 1,
    channels_in: int = 3,
) -> Plan:
    """Compile the plan of a Global-Net for the holes at `holes[0]` x `holes[1]` (first pixels, any order).

    A hole may reach beyond the image, as long as a pixel of it lies inside. What is called the image here may
    be any map that the network reads, of `channels_in` channels. Raises ConfigError for no holes, holes
    outside the image, and images too small for the layers or the read-out.
    """
    for starts, side in zip(holes, image_size, strict=True):
        if not len(starts) or min(starts) <= -patch or max(starts) >= side:
            given = f"got {list(starts)}"
            raise ConfigError(f"holes of {patch} pixels must start from {1 - patch} to {side - 1}, {given}")
    channels = [channels_in, *(layer.channels for layer in layers)]
    pools = [i for i, layer in enumerate(layers) if layer.kind == "pool"]
    if any(channels[i + 1] != channels[i] for i in pools):
        raise ConfigError(f"a pool keeps the channels of the layer below, got channels {channels[1:]}")
    steps, read = _compiled(layers, channels, _sizes(layers, image_size, readout), _spans(holes, patch), readout)
    return Plan(steps, image_size, patch, tuple(holes[0]), tuple(holes[1]), read)


def split(plan: Plan, least: int = LEAST) -> Plan:
    """The same plan with more bands, one for each kind of at least `least` keys: less to multiply, smaller blocks."""
    layers, sizes = [step.layer for step in plan.steps], [table.base_shape for table in plan.tables]
    channels = [plan.steps[0].channels_in, *(layer.channels for layer in layers)]
    spans, readout = _spans((plan.holes_y, plan.holes_x), plan.patch), math.isqrt(plan.readout.shape[1])
    steps, read = _compiled(layers, channels, sizes, spans, readout, least)
    return replace(plan, steps=steps, readout=read)


def _compiled(
    layers: Sequence[Layer],
    channels: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    holes: Sequence[Ints],
    readout: int,
    least: int | None = None,
) -> tuple[tuple[Step, ...], Ints]:
    """The steps, and the table rows that each location reads; `holes` of both axes as `compile_axis` takes them."""
    rows, cols = (compile_axis(layers, [size[a] for size in sizes], holes[a], readout, least) for a in (0, 1))
    tables = [Table(y, x, size) for y, x, size in zip(rows.keys, cols.keys, sizes, strict=True)]
    steps = [
        Step(layer, channels[i], tables[i], tables[i + 1], rows.hops[i], cols.hops[i]) for i, layer in enumerate(layers)
    ]
    return tuple(steps), tables[-1].find(rows.readout, cols.readout)


def _spans(holes: tuple[Sequence[int], Sequence[int]], patch: int) -> list[Ints]:
    """First pixel of each hole and one past its last, for both axes, int64 [holes, 2]."""
    starts = (np.asarray(axis, np.int64) for axis in holes)
    return [np.stack([start, start + patch], axis=1) for start in starts]


def _sizes(layers: Sequence[Layer], image_size: tuple[int, int], readout: int) -> list[tuple[int, int]]:
    sizes = [image_size]
    for i, layer in enumerate(layers):
        height, width = (layer.size(side) for side in sizes[-1])
        if min(height, width) < 1:
            raise ConfigError(f"layer {i} ({layer.kind}) has no cell left on an image of {image_size}")
        sizes.append((height, width))
    if min(sizes[-1]) < readout:
        raise ConfigError(f"the last level has {sizes[-1]} cells, fewer than a read-out of {readout} a side")
    return sizes
