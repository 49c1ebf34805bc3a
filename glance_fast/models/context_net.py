"""What the patches around a patch say together: the teacher's next five blocks, run over the grid of patches.

Local-Net's last block says something of every patch alone, and on the grid that is a map as the teacher has one, but
for what is beyond its borders. The teacher goes on from there: cells 16 pixels apart, zeros around them. Global-Net
is not asked to expect what comes out; IAD judges it by what is usual at its location, beside `z_l − z_g`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glance_fast.models.inverted_bottleneck import Block, BlockSpec

BLOCKS = (
    BlockSpec(3, 1, 80, 6, 80),
    BlockSpec(3, 1, 80, 6, 80),
    BlockSpec(5, 1, 80, 6, 112),
    BlockSpec(5, 1, 112, 6, 112),
    BlockSpec(5, 1, 112, 6, 112),
)
WIDTH = BLOCKS[-1].after
# Pixels between the cells that the teacher's blocks are used to.
SPACING = 16


class WideNet(nn.Module):
    """c [B, directions, gy, gx] of what Local-Net's last block says of patches `step` pixels apart."""

    def __init__(self, directions: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(spec, padded=True) for spec in BLOCKS)
        self.project = nn.Conv2d(WIDTH, directions, 1)

    def forward(self, cells: Tensor, step: int) -> Tensor:
        found = self.project(self.describe(cells, step))
        rows, cols = (filling(side, step, cells) for side in cells.shape[2:])
        out: Tensor = rows @ found @ cols.mT
        return out

    def describe(self, cells: Tensor, step: int) -> Tensor:
        """What the last block says, [B, WIDTH, h, w], at every location that is taken."""
        x = cells[:, :, :: every(step), :: every(step)]
        for block in self.blocks:
            x = block(x)
        return x

    def macs(self, grid: tuple[int, int], step: int) -> int:
        """Multiply-adds for a grid of patches; the interpolation is not counted."""
        height, width = (-(-side // every(step)) for side in grid)
        weights = [module.weight.numel() for module in self.modules() if isinstance(module, nn.Conv2d)]
        return height * width * sum(weights)


def every(step: int) -> int:
    """Of patches `step` pixels apart each so-many-eth is taken, so that cells lie as the teacher's do, or further."""
    return max(1, SPACING // step)


def filling(count: int, step: int, like: Tensor) -> Tensor:
    """Linear weights [count, taken] that give all of `count` locations a value from those that are taken.

    Made on the device of `like`, by arithmetic alone: a CUDA graph may capture it.
    """
    taken = torch.arange(-(-count // every(step)), device=like.device)
    place = (torch.arange(count, device=like.device) / every(step)).clamp(max=len(taken) - 1)
    return F.relu(1 - (place[:, None] - taken).abs()).to(like.dtype)
