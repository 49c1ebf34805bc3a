"""The dense pass on Triton kernels: the same plan, with every layer one launch for its base and one for its entries."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from glance_fast.kernels.gpu import ops
from glance_fast.kernels.gpu.configurations import tuned_options, tuned_tile_size, tuning_key
from glance_fast.kernels.gpu.conv_pool import POOLED_TILE
from glance_fast.kernels.gpu.tables import ENTRY_TILE, TILE_FIELDS, LevelTables
from glance_fast.kernels.reference.partial_conv import tap_weights
from glance_fast.models.global_net import GlobalNet
from glance_fast.plan.axis import UNTOUCHED, Keys, WindowSources
from glance_fast.plan.layer import Ints
from glance_fast.plan.plan import Plan
from glance_fast.plan.step import Step
from glance_fast.plan.table import Table, band_offsets

# A convolution and the pooling after it in one launch, where the table of configurations has a row for it.
CONV_POOL_KERNEL = "pooled_entries_kernel"


class TritonPass:
    """A plan and a Global-Net's weights, packed once for a device and a dtype.

    No `Pass`: it holds the weights that it was made with, and Local-Net is `TritonPipeline`'s.
    """

    def __init__(
        self, plan: Plan, net: GlobalNet, device: torch.device | str, dtype: torch.dtype, precision: str = "ieee"
    ) -> None:
        self.plan, self.precision = plan, precision
        self.launches = _launches(plan, device, dtype)
        # Of each step, for the tiles of its launch.
        self.tables = [
            level_tables(plan.steps[i], device, launch.tile_size) for launch in self.launches for i in launch.steps
        ]
        self.readout = torch.from_numpy(plan.readout).to(device)
        convs = iter(net.convs)
        # Of each step: its weight and bias, empty where it pools.
        self.convs: list[tuple[Tensor, ...]] = [
            pack_conv(next(convs), device, dtype) if step.layer.kind == "conv" else () for step in plan.steps
        ]
        self.project = net.project.to(device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """`z_g` of every location, float32: [B, C, H, W] of the pass's dtype -> [B, locations, n]."""
        base = images.permute(0, 2, 3, 1).contiguous()
        return self._finish(base, base.new_empty(len(base), 0, base.shape[3]), self.launches)

    @torch.no_grad()
    def from_pixels(self, images: Tensor, pixels: Tensor) -> Tensor:
        """The same where Global-Net reads uint8 images [B, H, W, 3] themselves, its first layer a convolution.

        `pixels` float32 [2, 3]: 1/(255·std) and mean/std.
        """
        first, *others = self.launches
        level = self.tables[0]
        base, entries = ops.pixel_level(
            images, pixels, *self.convs[0], level.tensors(), level.entries, level.tile_size, first.as_changes,
            self.precision,
        )  # fmt: skip
        return self._finish(base, entries, others)

    def _finish(self, base: Tensor, entries: Tensor, launches: list[StepLaunch]) -> Tensor:
        """`z_g` from the level below the first of `launches`: base [B, H, W, C], entries [B, entries, C]."""
        for launch in launches:
            base, entries = self._run(launch, base, entries)
        zero = base.new_zeros(len(base), 1, base.shape[3])
        table = torch.cat([base.flatten(1, 2), entries, zero], dim=1)
        cells = table[:, self.readout].flatten(2).float()
        out: Tensor = self.project(cells)
        return out

    def _run(self, launch: StepLaunch, base: Tensor, entries: Tensor) -> tuple[Tensor, Tensor]:
        """Base and entries of the level that a launch writes."""
        first, last = launch.steps[0], launch.steps[-1]
        level, size, as_changes = self.tables[last], self.plan.steps[last].layer.kernel, launch.as_changes
        tables = level.tensors()
        if launch.kernel == "pool_kernel":
            out: tuple[Tensor, Tensor] = ops.max_pool(
                base, entries, size, tables, level.entries, level.tile_size, as_changes
            )
        elif launch.kernel == "entries_kernel":
            out = ops.partial_conv(
                base, entries, *self.convs[first], tables, level.entries, level.tile_size, as_changes, self.precision,
            )  # fmt: skip
        else:
            out = ops.conv_pool(
                base, entries, *self.convs[first], self.tables[first].tensors(), size,
                tables, level.entries, level.tile_size, as_changes, self.precision,
            )  # fmt: skip
        return out


@dataclass(frozen=True)
class StepLaunch:
    """Which steps of a plan a launch runs, with which kernel, and how many entries a tile has: a program takes one.

    `as_changes`: a convolution follows, which reads entries less their base cells.
    """

    steps: range
    kernel: str
    tile_size: int
    as_changes: bool


def _launches(plan: Plan, device: torch.device | str, dtype: torch.dtype) -> list[StepLaunch]:
    """One launch per step; a convolution and its pooling are fused where the tuning table says it is faster."""
    kinds = [step.layer.kind for step in plan.steps]
    launches, done = list[StepLaunch](), 0
    while done < len(kinds):
        key = partial(tuning_key, channels=plan.steps[done].channels, device=device, dtype=dtype)
        # The first step may read pixels, and does so alone.
        fused = done > 0 and kinds[done : done + 2] == ["conv", "pool"] and bool(tuned_options(key(CONV_POOL_KERNEL)))
        kernel = CONV_POOL_KERNEL if fused else "entries_kernel" if kinds[done] == "conv" else "pool_kernel"
        steps, default = range(done, done + 1 + fused), POOLED_TILE if fused else ENTRY_TILE
        done = steps.stop
        tile_size = tuned_tile_size(key(kernel), default)
        launches.append(StepLaunch(steps, kernel, tile_size, kinds[done : done + 1] == ["conv"]))
    return launches


def level_tables(step: Step, device: torch.device | str, tile_size: int = ENTRY_TILE) -> LevelTables:
    """The tables of one step, for tiles of `tile_size` entries.

    A cell's number, and a block's, is the sum of a row's part and a column's.
    """
    below, table = step.below, step.table
    col_bands = len(below.cols.bands)

    def on_device(values: Ints) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device, torch.int32)

    return LevelTables(
        entries=table.entries,
        tile_size=tile_size,
        tiles=on_device(_tile_table(table, tile_size)),
        row_taps=on_device(_tap_table(below.rows, step.rows.keys, below.base_shape[1], col_bands)),
        col_taps=on_device(_tap_table(below.cols, step.cols.keys, 1, 1)),
        row_keys=on_device(_key_table(table.rows, step.rows.keys, table.base_shape[1])),
        col_keys=on_device(_key_table(table.cols, step.cols.keys, 1)),
        block_offsets=on_device(below.block_offsets()),
    )


def pack_conv(conv: nn.Module, device: torch.device | str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A convolution's weight as kernels take it, [k, k, C, O] of `dtype`, and its bias in float32."""
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
    return tap_weights(conv.weight.detach()).to(device, dtype), conv.bias.detach().to(device, torch.float32)


def _tile_table(table: Table, size: int) -> Ints:
    """Tiles of `size` entries, int64 [tiles, TILE_FIELDS]."""
    tiles, first = [], 0
    for row, col in table.bands:
        length = len(row) * len(col)
        block = (row.keys.start, col.keys.start, len(col), row.taps.start, row.taps.stop, col.taps.start, col.taps.stop)
        tiles += [(start, length, first, *block) for start in range(0, length, size)]
        first += length
    return np.array(tiles, np.int64).reshape(-1, TILE_FIELDS)


def _key_table(keys: Keys, sources: WindowSources, width: int) -> Ints:
    """Fields of each key, int64 [keys, KEY_FIELDS]; `width` cells lie between neighbours along this axis."""
    return np.stack([keys.cell * width, sources.inside.sum(axis=1), sources.dead.sum(axis=1)], axis=1)


def _tap_table(keys: Keys, sources: WindowSources, width: int, blocks: int) -> Ints:
    """Fields of each tap, int64 [keys, k, TAP_FIELDS], from the `keys` below; a band has `blocks` blocks."""
    band, start, length = band_offsets(keys)
    key, touched = sources.key, sources.key != UNTOUCHED
    fields = (
        np.where(touched, band[key] * blocks, UNTOUCHED),
        np.where(touched, key - start[key], 0),
        sources.dead,
        np.where(sources.inside, sources.cell * width, 0),
        length[key],
        np.where(touched, key, 0),
    )
    return np.stack(fields, axis=-1)
