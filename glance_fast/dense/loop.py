"""The paper's per-patch loop, plain and slow: the reference that every faster path is held to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glance_fast.models.global_net import GlobalNet
from glance_fast.models.model import GlanceModel
from glance_fast.plan.axis import readout_cells, total_stride
from glance_fast.plan.plan import Plan

Corner = tuple[int, int]


class LoopPass:
    """One masked image per location, `batch` locations at a time; differentiable as `DensePass` is.

    Uses of the plan only what it was compiled for: the holes, the patch and the read-out.
    """

    def __init__(self, plan: Plan, batch: int = 1) -> None:
        self.plan, self.batch = plan, batch
        self._holes = [(y, x) for y in plan.holes_y for x in plan.holes_x]

    @property
    def plans(self) -> Sequence[Plan]:
        """The plan, of which no step is run."""
        return (self.plan,)

    def __call__(self, net: GlobalNet, images: Tensor) -> Tensor:
        """`z_g` of every location: [B, C, H, W] -> [B, locations, n]."""
        return torch.stack([self._image(net, image) for image in images])

    def features(self, model: GlanceModel, images: Tensor) -> tuple[Tensor, Tensor]:
        """`z_l` and `z_g`, each [B, locations, n]: Local-Net on each cut-out patch, Global-Net on each masked image.

        The pixels of a patch are erased before anything that Global-Net reads is computed.
        """
        margin = model.config.border_padding
        corners = [(y + margin, x + margin) for y in model.grid[0] for x in model.grid[1]]
        padded = model.padded(images)
        z_local = [_local_features(model, image, corners) for image in padded]
        z_global = [self._erased(model, image, corners) for image in padded]
        return torch.stack(z_local), torch.stack(z_global)

    def _image(self, net: GlobalNet, image: Tensor) -> Tensor:
        """z_g [locations, n] of one image or map [C, H, W]."""
        batches = [self._holes[i : i + self.batch] for i in range(0, len(self._holes), self.batch)]
        patch = self.plan.patch
        return torch.cat([_masked(net, image.expand(len(holes), -1, -1, -1), patch, holes) for holes in batches])

    def _erased(self, model: GlanceModel, image: Tensor, corners: list[Corner]) -> Tensor:
        """z_g [locations, n] of one padded image [3, H, W] whose patches at `corners` are erased one at a time."""
        parts = []
        for i in range(0, len(self._holes), self.batch):
            holes = self._holes[i : i + self.batch]
            erased = image.repeat(len(holes), 1, 1, 1)
            for copy, corner in zip(erased, corners[i : i + self.batch], strict=True):
                copy[(slice(None), *_inside(corner, model.config.patch))] = 0
            read = model.cropped(model.local_net.feature_map(erased))
            parts.append(_masked(model.global_net, read, self.plan.patch, holes))
        return torch.cat(parts)


def _local_features(model: GlanceModel, image: Tensor, corners: list[Corner]) -> Tensor:
    """z_l [locations, n] of one padded image [3, H, W]."""
    size = model.config.patch
    patches = torch.stack([image[:, y : y + size, x : x + size] for y, x in corners])
    described = model.local_net.tap_features(patches).flatten(1).mT
    grid = described.reshape(1, -1, len(model.grid[0]), len(model.grid[1]))
    return model.local_net.z_local(grid, model.config.stride)[0].flatten(1).mT


def _masked(net: GlobalNet, images: Tensor, patch: int, holes: list[Corner]) -> Tensor:
    """z_g [holes, n] of one image or map per hole, [holes, C, H, W]."""
    mask = images.new_ones(len(holes), 1, *images.shape[2:])
    for i, hole in enumerate(holes):
        mask[(i, slice(None), *_inside(hole, patch))] = 0
    cells = net(images.contiguous(memory_format=_layout(net)), mask)
    readouts = []
    for i, hole in enumerate(holes):
        rows, cols = (
            readout_cells([start], patch, net.readout, total_stride(net.layers), size)[0]
            for start, size in zip(hole, cells.shape[2:], strict=True)
        )
        readouts.append(cells[i][:, rows][:, :, cols].permute(1, 2, 0).flatten())
    out: Tensor = net.project(torch.stack(readouts))
    return out


def _inside(hole: Corner, patch: int) -> tuple[slice, slice]:
    """The part of a hole that lies in the image, which it may reach beyond."""
    rows, cols = (slice(max(start, 0), max(start + patch, 0)) for start in hole)
    return rows, cols


def _layout(net: GlobalNet) -> torch.memory_format:
    weight = next(net.parameters())
    channels_last = weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format
