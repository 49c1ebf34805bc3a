"""The paper's per-patch loop, plain and slow: the reference that every faster path is held to."""

from __future__ import annotations

import torch
from torch import Tensor

from glance_fast.axis import readout_cells, total_stride
from glance_fast.nets.global_net import GlobalNet
from glance_fast.nets.model import GlanceModel
from glance_fast.plan import Plan


def loop_global(net: GlobalNet, images: Tensor, plan: Plan, batch: int = 1) -> Tensor:
    """`z_g` of every location of `plan`, one masked image a location: [B, 3, H, W] -> [B, locations, n].

    Uses of the plan only what it was compiled for: the holes, the patch and the read-out. `batch` locations
    run at a time.
    """
    holes = [(y, x) for y in plan.holes_y for x in plan.holes_x]
    out = []
    for image in images:
        parts = [_masked(net, image, plan.patch, holes[i : i + batch]) for i in range(0, len(holes), batch)]
        out.append(torch.cat(parts))
    return torch.stack(out)


def _masked(net: GlobalNet, image: Tensor, patch: int, holes: list[tuple[int, int]]) -> Tensor:
    mask = image.new_ones(len(holes), 1, *image.shape[1:])
    for i, (y, x) in enumerate(holes):
        mask[i, :, y : y + patch, x : x + patch] = 0
    cells = net(image.expand(len(holes), -1, -1, -1).contiguous(memory_format=_layout(net)), mask)
    read = []
    for i, hole in enumerate(holes):
        rows, cols = (
            readout_cells([start], patch, net.readout, total_stride(net.layers), size)[0]
            for start, size in zip(hole, cells.shape[2:], strict=True)
        )
        read.append(cells[i][:, rows][:, :, cols].permute(1, 2, 0).flatten())
    out: Tensor = net.project(torch.stack(read))
    return out


def _layout(net: GlobalNet) -> torch.memory_format:
    weight = next(net.parameters())
    channels_last = weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


def loop_features(model: GlanceModel, images: Tensor, batch: int = 1) -> tuple[Tensor, Tensor]:
    """`z_l`, `z_g`, each [B, locations, n]: Local-Net on each cut-out patch, Global-Net on masked images."""
    plan = model.plan()
    size = plan.patch
    crops = [images[:, :, y : y + size, x : x + size] for y in plan.holes_y for x in plan.holes_x]
    patches = torch.stack(crops, dim=1)
    z_local = model.local_net(patches.flatten(0, 1)).flatten(1).unflatten(0, patches.shape[:2])
    return z_local, loop_global(model.global_net, images, plan, batch)
