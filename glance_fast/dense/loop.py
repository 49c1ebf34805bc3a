"""The paper's per-patch loop, plain and slow: the reference that every faster path is held to."""

from __future__ import annotations

import torch
from torch import Tensor

from glance_fast.models.global_net import GlobalNet
from glance_fast.models.model import GlanceModel
from glance_fast.plan.axis import readout_cells, total_stride
from glance_fast.plan.plan import Plan

Corner = tuple[int, int]


def loop_global(net: GlobalNet, images: Tensor, plan: Plan, batch: int = 1) -> Tensor:
    """`z_g` of every location of `plan`, one masked image a location: [B, C, H, W] -> [B, locations, n].

    Uses of the plan only what it was compiled for: the holes, the patch and the read-out. `batch` locations
    run at a time.
    """
    holes = _product(plan.holes_y, plan.holes_x)
    out = []
    for image in images:
        pieces = [holes[i : i + batch] for i in range(0, len(holes), batch)]
        out.append(torch.cat([_masked(net, image.expand(len(some), -1, -1, -1), plan.patch, some) for some in pieces]))
    return torch.stack(out)


def _product(rows: tuple[int, ...], cols: tuple[int, ...]) -> list[Corner]:
    return [(y, x) for y in rows for x in cols]


def _masked(net: GlobalNet, images: Tensor, patch: int, holes: list[Corner]) -> Tensor:
    """z_g [holes, n] of one image or map a hole, [holes, C, H, W]."""
    mask = images.new_ones(len(holes), 1, *images.shape[2:])
    for i, hole in enumerate(holes):
        mask[(i, slice(None), *_inside(hole, patch))] = 0
    cells = net(images.contiguous(memory_format=_layout(net)), mask)
    read = []
    for i, hole in enumerate(holes):
        rows, cols = (
            readout_cells([start], patch, net.readout, total_stride(net.layers), size)[0]
            for start, size in zip(hole, cells.shape[2:], strict=True)
        )
        read.append(cells[i][:, rows][:, :, cols].permute(1, 2, 0).flatten())
    out: Tensor = net.project(torch.stack(read))
    return out


def _inside(hole: Corner, patch: int) -> tuple[slice, slice]:
    """The part of a hole that lies in the image, which it may reach beyond."""
    rows, cols = (slice(max(start, 0), max(start + patch, 0)) for start in hole)
    return rows, cols


def _layout(net: GlobalNet) -> torch.memory_format:
    weight = next(net.parameters())
    channels_last = weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


def loop_features(model: GlanceModel, images: Tensor, batch: int = 1) -> tuple[Tensor, Tensor]:
    """`z_l`, `z_g`, each [B, locations, n]: Local-Net on each cut-out patch, Global-Net on each masked image.

    The pixels of a patch are erased before anything that Global-Net reads is computed.
    """
    plan, size, margin = model.plan(), model.config.patch, model.config.overhang
    corners = [(y + margin, x + margin) for y, x in _product(*model.grid)]
    holes = _product(plan.holes_y, plan.holes_x)
    z_local, z_global = [], []
    for image in model.padded(images):
        patches = torch.stack([image[:, y : y + size, x : x + size] for y, x in corners])
        told = model.local_net.describe(patches)[0].flatten(1).mT
        grid = told.reshape(1, -1, len(model.grid[0]), len(model.grid[1]))
        z_local.append(model.local_net.join(grid, model.config.stride)[0].flatten(1).mT)
        parts = []
        for i in range(0, len(holes), batch):
            erased = image.repeat(len(holes[i : i + batch]), 1, 1, 1)
            for copy, corner in zip(erased, corners[i : i + batch], strict=True):
                copy[(slice(None), *_inside(corner, size))] = 0
            read = model.cropped(model.local_net.read(erased))
            parts.append(_masked(model.global_net, read, plan.patch, holes[i : i + batch]))
        z_global.append(torch.cat(parts))
    return torch.stack(z_local), torch.stack(z_global)
