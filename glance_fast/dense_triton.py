"""The dense pass on Triton kernels: the same plan, with every layer one launch for its base and one for its entries."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from glance_fast.axis import UNTOUCHED, Keys, Reads
from glance_fast.kernels import ops
from glance_fast.kernels.configurations import configured, place_of
from glance_fast.kernels.partial_conv import tap_weights
from glance_fast.kernels.triton_tables import LevelTables
from glance_fast.layers import Ints
from glance_fast.nets.global_net import GlobalNet
from glance_fast.plan import Plan, Step
from glance_fast.table import Table, places

# Entries that a program takes where nothing else was measured to be faster.
BLOCK = 64


class TritonPass:
    """A plan and a Global-Net's weights, packed once for a device and a dtype."""

    def __init__(
        self, plan: Plan, net: GlobalNet, device: torch.device | str, dtype: torch.dtype, precision: str = "ieee"
    ) -> None:
        self.plan, self.precision = plan, precision
        self.tables = [level_tables(step, device, _block(step, device, dtype)) for step in plan.steps]
        self.readout = torch.from_numpy(plan.readout).to(device)
        self.convs = [packed(conv, device, dtype) for conv in net.convs]
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
        base, entries = ops.pixel_level(images, pixels, *self.convs[0], *self._of_level(0), self.precision)
        return self._behind(base, entries, 1)

    def _of_level(self, i: int) -> tuple[list[Tensor], int, int, bool]:
        """A step's tables, its entries, how many a program takes, and whether they are wanted as changes."""
        tables = self.tables[i]
        kinds = [step.layer.kind for step in self.plan.steps]
        return tables.tensors(), tables.entries, tables.block, kinds[i + 1 : i + 2] == ["conv"]

    def _behind(self, base: Tensor, entries: Tensor, done: int) -> Tensor:
        """`z_g` of the level behind the first `done` layers."""
        steps = self.plan.steps
        convs = iter(self.convs[sum(step.layer.kind == "conv" for step in steps[:done]) :])
        for i in range(done, len(steps)):
            if steps[i].layer.kind == "conv":
                base, entries = ops.partial_conv(base, entries, *next(convs), *self._of_level(i), self.precision)
            else:
                base, entries = ops.max_pool(base, entries, steps[i].layer.kernel, *self._of_level(i))
        zero = base.new_zeros(len(base), 1, base.shape[3])
        table = torch.cat([base.flatten(1, 2), entries, zero], dim=1)
        cells = table[:, self.readout].flatten(2).float()
        out: Tensor = self.project(cells)
        return out


def _block(step: Step, device: torch.device | str, dtype: torch.dtype) -> int:
    """Entries that a program of a step takes there."""
    kernel = "entries_kernel" if step.layer.kind == "conv" else "pool_kernel"
    place = place_of(kernel, (step.channels_in, step.layer.channels), device, dtype)
    return configured(place).get("BLOCK_M", BLOCK)


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
        first=on_device(below.firsts()),
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


def _own(keys: Keys, reads: Reads, width: int) -> Ints:
    return np.stack([keys.cell * width, reads.inside.sum(axis=1), reads.dead.sum(axis=1)], axis=1)


def _taps(keys: Keys, reads: Reads, width: int, blocks: int) -> Ints:
    """What each tap reads of the keys below, [keys, k, 5]."""
    band, start, length = places(keys)
    key, touched = reads.key, reads.key != UNTOUCHED
    fields = (
        np.where(touched, band[key] * blocks, UNTOUCHED),
        np.where(touched, key - start[key], 0),
        reads.dead,
        np.where(reads.inside, reads.cell * width, 0),
        length[key],
    )
    return np.stack(fields, axis=-1)
