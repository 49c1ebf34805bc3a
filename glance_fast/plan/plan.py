"""The plan: every cell that the per-patch loop would ever compute, numbered once, before any image is read.

The loop runs Global-Net once for each hole. What a run leaves in a cell depends only on *where the hole
meets the cell's receptive field*, and that is a rectangle, so it splits into one interval per axis:

    key of a cell  =  (y, I_y) x (x, I_x),      I = hole ∩ receptive field

A cell whose key is empty along either axis is not touched by the hole: it is a **base** cell, shared by all
locations. Every other key is an **entry**, shared by all locations that meet the cell in the same way. A key
that fills its receptive field along both axes sees nothing at all: it is **dead**, its value is 0, and it is
never stored.

Because keys split by axis, so does all the work of finding them. `compile_axis` starts from the cells that
are read out for the holes' positions along one axis, walks down the layers and numbers the distinct
`(cell, I)` of every level: a few hundred. A level of the plan is the outer product of two such lists, and a step leads
from one level to the next.

This module is plain numpy; `glance_fast.dense.torch_pass` runs a plan, `docs/plan.md` explains it in pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from glance_fast.errors import ConfigError
from glance_fast.plan.axis import compile_axis
from glance_fast.plan.layer import Ints, Layer
from glance_fast.plan.step import Step
from glance_fast.plan.table import Table

# Keys that a band of a refined plan has at least: fewer make products too small to be worth it.
MIN_KEYS_PER_BAND = 25


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
        """Number of locations."""
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
    def peak_bytes(self) -> int:
        """Bytes of the tables that the dense pass holds at once for one image in float32, and of their row numbers."""
        tables = (2 * step.below.zero * step.channels_in + step.table.zero * step.layer.channels for step in self.steps)
        numbers = sum(step.table.entries * step.layer.kernel**2 for step in self.steps)
        return 4 * (max(tables) + numbers)

    @property
    def loop_macs(self) -> int:
        """Multiply-adds of the per-patch loop for one image: every cell of every layer for every location."""
        return self.locations * sum(step.loop_macs for step in self.steps)

    @property
    def loop_bytes(self) -> int:
        """Bytes that the loop reads and writes for one image in float32, its windows gathered likewise."""
        return self.locations * sum(step.loop_bytes for step in self.steps)

    def blind(self) -> int:
        """Number of locations whose read-out cells are all dead: the hole covers their receptive fields."""
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

    A hole may reach beyond the image, as long as a pixel of it lies inside. The image may be any map that the
    network reads, of `channels_in` channels and `image_size` cells (height, width). Raises ConfigError for no
    holes, holes outside the image, and images too small for the layers or the read-out.
    """
    for starts, side in zip(holes, image_size, strict=True):
        if not len(starts) or min(starts) <= -patch or max(starts) >= side:
            legal = f"must start from {1 - patch} to {side - 1}"
            raise ConfigError(f"holes of {patch} pixels {legal}, got {list(starts)}")
    channels = [channels_in, *(layer.channels for layer in layers)]
    pools = [i for i, layer in enumerate(layers) if layer.kind == "pool"]
    if any(channels[i + 1] != channels[i] for i in pools):
        raise ConfigError(f"a pool keeps the channels of the layer below, got channels {channels[1:]}")
    steps, rows = _compile_steps(layers, channels, _sizes(layers, image_size, readout), _spans(holes, patch), readout)
    return Plan(steps, image_size, patch, tuple(holes[0]), tuple(holes[1]), rows)


def refine_bands(plan: Plan, min_keys: int = MIN_KEYS_PER_BAND) -> Plan:
    """The same plan with its bands subdivided into bands of at least `min_keys` keys: fewer multiply-adds, more blocks.

    Keys whose windows have the same dead taps, and which lie at the same tap of a pool's window, share a band.
    """
    layers, sizes = [step.layer for step in plan.steps], [table.base_shape for table in plan.tables]
    channels = [plan.steps[0].channels_in, *(layer.channels for layer in layers)]
    spans, readout = _spans((plan.holes_y, plan.holes_x), plan.patch), math.isqrt(plan.readout.shape[1])
    steps, rows = _compile_steps(layers, channels, sizes, spans, readout, min_keys)
    return replace(plan, steps=steps, readout=rows)


def _compile_steps(
    layers: Sequence[Layer],
    channels: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    holes: Sequence[Ints],
    readout: int,
    min_keys: int = 0,
) -> tuple[tuple[Step, ...], Ints]:
    """The steps, and the table rows that each location reads; `holes` of both axes as `compile_axis` takes them."""
    rows, cols = (compile_axis(layers, [size[a] for size in sizes], holes[a], readout, min_keys) for a in (0, 1))
    tables = [Table(y, x, size) for y, x, size in zip(rows.keys, cols.keys, sizes, strict=True)]
    steps = [
        Step(layer, channels[i], tables[i], tables[i + 1], rows.transitions[i], cols.transitions[i])
        for i, layer in enumerate(layers)
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
