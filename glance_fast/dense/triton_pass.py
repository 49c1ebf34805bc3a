"""The dense pass on Triton kernels: the same plan, with every layer one launch for its base and one for its entries."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from glance_fast.kernels.gpu import conv_pool as triton_conv_pool, ops
from glance_fast.kernels.gpu.configurations import block_of, configured, place_of
from glance_fast.kernels.gpu.tables import BLOCK, LevelTables
from glance_fast.kernels.reference.partial_conv import tap_weights
from glance_fast.models.global_net import GlobalNet
from glance_fast.plan.axis import UNTOUCHED, Keys, WindowSources
from glance_fast.plan.layer import Ints
from glance_fast.plan.plan import Plan
from glance_fast.plan.step import Step
from glance_fast.plan.table import Table, band_offsets

# A convolution and the pooling behind it, where the table of configurations has a row for it.
JOINED = "pooled_entries_kernel"


class TritonPass:
    """A plan and a Global-Net's weights, packed once for a device and a dtype."""

    def __init__(
        self, plan: Plan, net: GlobalNet, device: torch.device | str, dtype: torch.dtype, precision: str = "ieee"
    ) -> None:
        self.plan, self.precision = plan, precision
        self.launches = _launches(plan, device, dtype)
        self.tables = [
            level_tables(plan.steps[i], device, launch.block) for launch in self.launches for i in launch.steps
        ]
        self.readout = torch.from_numpy(plan.readout).to(device)
        convs = iter(net.convs)
        # Of each step: its weights, none where it pools.
        self.convs: list[tuple[Tensor, ...]] = [
            packed(next(convs), device, dtype) if step.layer.kind == "conv" else () for step in plan.steps
        ]
        self.project = net.project.to(device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """`z_g` of every location, float32: [B, C, H, W] of the pass's dtype -> [B, locations, n]."""
        base = images.permute(0, 2, 3, 1).contiguous()
        return self._behind(base, base.new_empty(len(base), 0, base.shape[3]), 0)

    @torch.no_grad()
    def of_pixels(self, images: Tensor, pixels: Tensor) -> Tensor:
        """The same where Global-Net reads uint8 images [B, H, W, 3] themselves, its first layer a convolution.

        `pixels` float32 [2, 3]: 1/(255·std) and mean/std.
        """
        level = self._level(self.launches[0])
        base, entries = ops.pixel_level(images, pixels, *self.convs[0], *level, self.precision)
        return self._behind(base, entries, 1)

    def _level(self, launch: Launch) -> tuple[list[Tensor], int, int, bool]:
        """Of the level that a launch gives: tables, entries, how many a program takes, whether they are changes."""
        tables = self.tables[launch.steps[-1]]
        return tables.tensors(), tables.entries, tables.block, launch.as_changes

    def _behind(self, base: Tensor, entries: Tensor, done: int) -> Tensor:
        """`z_g` of the level behind the first `done` launches."""
        for launch in self.launches[done:]:
            first, level = launch.steps.start, self._level(launch)
            size = self.plan.steps[launch.steps[-1]].layer.kernel
            if launch.kernel == "pool_kernel":
                base, entries = ops.max_pool(base, entries, size, *level)
                continue
            layer = base, entries, *self.convs[first]
            if launch.kernel == "entries_kernel":
                base, entries = ops.partial_conv(*layer, *level, self.precision)
            else:
                base, entries = ops.conv_pool(*layer, self.tables[first].tensors(), size, *level, self.precision)
        zero = base.new_zeros(len(base), 1, base.shape[3])
        table = torch.cat([base.flatten(1, 2), entries, zero], dim=1)
        cells = table[:, self.readout].flatten(2).float()
        out: Tensor = self.project(cells)
        return out


@dataclass(frozen=True)
class Launch:
    """Which steps of a plan a launch does, with which kernel, how many entries a program takes, and what it gives.

    as_changes: a convolution follows, which wants entries as what they differ by from their base cells.
    """

    steps: range
    kernel: str
    block: int
    as_changes: bool


def _launches(plan: Plan, device: torch.device | str, dtype: torch.dtype) -> list[Launch]:
    """How a plan is launched there: a step a launch, but a convolution with its pooling where that was faster."""
    kinds = [step.layer.kind for step in plan.steps]
    found, done = list[Launch](), 0
    while done < len(kinds):
        place = partial(place_of, channels=plan.steps[done].channels, device=device, dtype=dtype)
        # The first step may read pixels, and does so alone.
        joined = done > 0 and kinds[done : done + 2] == ["conv", "pool"] and bool(configured(place(JOINED)))
        kernel = JOINED if joined else "entries_kernel" if kinds[done] == "conv" else "pool_kernel"
        steps, usual = range(done, done + 1 + joined), triton_conv_pool.BLOCK if joined else BLOCK
        done = steps.stop
        found.append(Launch(steps, kernel, block_of(place(kernel), usual), kinds[done : done + 1] == ["conv"]))
    return found


def level_tables(step: Step, device: torch.device | str, block: int = BLOCK) -> LevelTables:
    """The tables of one step, for tiles of `block` entries; both axes' parts of a cell's or a block's number add up."""
    below, table = step.below, step.table
    blocks = [len(keys.bands) for keys in (below.rows, below.cols)]

    def on_device(values: Ints) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device, torch.int32)

    return LevelTables(
        entries=table.entries,
        block=block,
        tiles=on_device(_tiles(table, block)),
        row_taps=on_device(_taps(below.rows, step.rows.keys, below.base_shape[1], blocks[1])),
        col_taps=on_device(_taps(below.cols, step.cols.keys, 1, 1)),
        row_own=on_device(_own(table.rows, step.rows.keys, table.base_shape[1])),
        col_own=on_device(_own(table.cols, step.cols.keys, 1)),
        first=on_device(below.block_offsets()),
    )


def packed(conv: nn.Module, device: torch.device | str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A convolution's weight as kernels take it, [k, k, C, O] of `dtype`, and its bias in float32."""
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
    return tap_weights(conv.weight.detach()).to(device, dtype), conv.bias.detach().to(device, torch.float32)


def _tiles(table: Table, size: int) -> Ints:
    """Pieces of `size` entries: start and end in the block, its first entry, keys, columns, and taps, [tiles, 10]."""
    tiles, first = [], 0
    for row, col in table.bands:
        total = len(row) * len(col)
        block = (row.keys.start, col.keys.start, len(col), row.taps.start, row.taps.stop, col.taps.start, col.taps.stop)
        tiles += [(start, total, first, *block) for start in range(0, total, size)]
        first += total
    return np.array(tiles, np.int64).reshape(-1, 10)


def _own(keys: Keys, reads: WindowSources, width: int) -> Ints:
    return np.stack([keys.cell * width, reads.inside.sum(axis=1), reads.dead.sum(axis=1)], axis=1)


def _taps(keys: Keys, reads: WindowSources, width: int, blocks: int) -> Ints:
    """What each tap reads of the keys below, [keys, k, 6]."""
    band, start, length = band_offsets(keys)
    key, touched = reads.key, reads.key != UNTOUCHED
    fields = (
        np.where(touched, band[key] * blocks, UNTOUCHED),
        np.where(touched, key - start[key], 0),
        reads.dead,
        np.where(reads.inside, reads.cell * width, 0),
        length[key],
        np.where(touched, key, 0),
    )
    return np.stack(fields, axis=-1)
