"""One step of a plan on a device, in PyTorch: from the table of the level below to the level's own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glance_fast.dense.workspace import Workspace
from glance_fast.kernels.reference.gather import gather
from glance_fast.kernels.reference.max_pool import max_pool_windows
from glance_fast.kernels.reference.partial_conv import add_changes, changes, renormalise, tap_weights
from glance_fast.plan.layer import Ints
from glance_fast.plan.step import Step

# Rows that a matrix product takes at a time without gradients: the gathered windows then stay in a CPU's caches.
# 256x256, patch 32, stride 8, 2 cores: 1,024 rows 107 ms, 2,048 rows 105 ms, 4,096 rows 105 ms.
ROW_CHUNK = 2048


@dataclass(frozen=True)
class DeviceBlock:
    """A block of the plan on a device: `sources` int32 [entries, taps]."""

    entries: slice
    taps: tuple[int, ...]
    sources: Tensor
    recompute: bool

    def chunks(self) -> list[tuple[slice, Tensor]]:
        """The block cut into chunks of ROW_CHUNK entries: which entries, and their sources."""
        starts = range(self.entries.start, self.entries.stop, ROW_CHUNK)
        parts = torch.split(self.sources, ROW_CHUNK)
        return [(slice(start, start + len(part)), part) for start, part in zip(starts, parts, strict=True)]


class DeviceStep:
    """The row numbers of one step of a plan on a device; `scale` [base + entries, 1] is k²/sum(M) of each row."""

    def __init__(self, step: Step, device: torch.device | str, dtype: torch.dtype) -> None:
        def rows(numbers: Ints) -> Tensor:
            return torch.from_numpy(numbers).to(device, torch.int32)

        self.step, self.channels = step, step.layer.channels
        self.base = step.table.base
        self.blocks = [
            DeviceBlock(block.entries, block.taps, rows(block.sources), block.recompute) for block in step.blocks()
        ]
        self.base_index_below, self.base_index = rows(step.below.base_index()), rows(step.table.base_index())
        self.scale = (step.layer.kernel**2 / torch.from_numpy(step.valid_counts()).to(device, dtype))[:, None]

    def run(self, table: Tensor, conv: nn.Conv2d | None, out: Tensor, space: Workspace) -> None:
        """Write the level's table to `out` [rows + 1, C'] from that of the level below, [rows below + 1, C]."""
        out[-1] = 0
        if conv is None:
            out[: self.base] = as_rows(self._pooled_base(table))
            self._run_pool(table, out[self.base : -1], space)
        else:
            self._run_conv(table, conv, out, space)

    def run_autograd(self, table: Tensor, conv: nn.Conv2d | None) -> Tensor:
        """The level's table [rows + 1, C'], differentiable in `table` and the weights of `conv`."""
        if conv is None:
            windows = [gather(table, block.sources) for block in self.blocks]
            pooled = [max_pool_windows(window, self.channels) for window in windows]
            rows = torch.cat([as_rows(self._pooled_base(table)), *pooled])
        else:
            rows = self._conv_autograd(table, conv)
        return torch.cat([rows, rows.new_zeros(1, self.channels)])

    def _run_pool(self, table: Tensor, entries: Tensor, space: Workspace) -> None:
        windows = space.buffer("windows", (ROW_CHUNK * self.step.layer.kernel**2 * self.channels,), table)
        for block in self.blocks:
            for rows, sources in block.chunks():
                max_pool_windows(gather(table, sources, windows), self.channels, entries[rows])

    def _run_conv(self, table: Tensor, conv: nn.Conv2d, out: Tensor, space: Workspace) -> None:
        assert conv.bias is not None
        sums = self._base_sums(table, conv)
        renormalise(sums, self.scale[: self.base], conv.bias, out[: self.base])
        changed = changes(table, self.base_index_below, space.buffer("changes", (len(table), table.shape[1]), table))
        entries, scale = out[self.base : -1], self.scale[self.base :]
        torch.index_select(sums, 0, self.base_index, out=entries)
        windows = space.buffer("windows", (ROW_CHUNK * self.step.layer.kernel**2 * table.shape[1],), table)
        matrices = self._matrices(conv.weight)
        for block in self.blocks:
            weight = matrices[block.taps]
            for rows, sources in block.chunks():
                chunk = entries[rows]
                if block.recompute:
                    torch.mm(gather(table, sources, windows), weight, out=chunk)
                else:
                    add_changes(chunk, gather(changed, sources, windows), weight, chunk)
                renormalise(chunk, scale[rows], conv.bias, chunk)

    def _conv_autograd(self, table: Tensor, conv: nn.Conv2d) -> Tensor:
        assert conv.bias is not None
        sums = self._base_sums(table, conv)
        changed, matrices = changes(table, self.base_index_below), self._matrices(conv.weight)
        shared = gather(sums, self.base_index[:, None])
        rows = []
        for block in self.blocks:
            weight = matrices[block.taps]
            if block.recompute:
                rows.append(gather(table, block.sources) @ weight)
            else:
                rows.append(add_changes(shared[block.entries], gather(changed, block.sources), weight))
        return renormalise(torch.cat([sums, *rows]), self.scale, conv.bias)

    def _pooled_base(self, table: Tensor) -> Tensor:
        return F.max_pool2d(self._base_image(table), self.step.layer.kernel)

    def _base_sums(self, table: Tensor, conv: nn.Conv2d) -> Tensor:
        """W * X of the base cells without a hole, [base, C']."""
        weight = conv.weight.contiguous(memory_format=torch.channels_last)
        return as_rows(F.conv2d(self._base_image(table), weight, padding=self.step.layer.pad))

    def _base_image(self, table: Tensor) -> Tensor:
        """The base of the table below, [N, C], as an image [1, C, H, W]."""
        below = self.step.below
        return table[: below.base].view(1, *below.base_shape, -1).permute(0, 3, 1, 2)

    def _matrices(self, weight: Tensor) -> dict[tuple[int, ...], Tensor]:
        """The matrix of each block's product, [taps * C, C'], by the taps that the block reads."""
        by_tap = tap_weights(weight).flatten(0, 1)
        return {taps: by_tap[list(taps)].flatten(0, 1) for taps in {block.taps for block in self.blocks}}


def as_rows(image: Tensor) -> Tensor:
    """One image [1, C, H, W] as rows [H * W, C]."""
    return image[0].flatten(1).mT
