"""Context features of a patch: the teacher's next five blocks, run over the grid of patches.

The tap features of Local-Net's last block form, over the grid, a map as the teacher computes it, except at its
borders. The teacher continues from there: cells 16 pixels apart, zero padding. Global-Net does not predict these
features; IAD compares them with their mean at the location, alongside `z_l − z_g`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glance_fast.models.inverted_bottleneck import BlockSpec, InvertedBottleneck

CONTEXT_BLOCKS = (
    BlockSpec(3, 1, 80, 6, 80),
    BlockSpec(3, 1, 80, 6, 80),
    BlockSpec(5, 1, 80, 6, 112),
    BlockSpec(5, 1, 112, 6, 112),
    BlockSpec(5, 1, 112, 6, 112),
)
WIDTH = CONTEXT_BLOCKS[-1].after
# Pixels between cells of the map that the teacher's blocks were trained on.
SPACING = 16


class ContextNet(nn.Module):
    """z_context [B, features, gy, gx] of the last block's taps [B, 80, gy, gx], of patches `step` pixels apart."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(InvertedBottleneck(spec, padded=True) for spec in CONTEXT_BLOCKS)
        self.project = nn.Conv2d(WIDTH, features, 1)

    def forward(self, cells: Tensor, step: int) -> Tensor:
        projected = self.project(self.block_features(cells, step))
        rows, cols = (upsampling_weights(side, step, cells) for side in cells.shape[2:])
        out: Tensor = rows @ projected @ cols.mT
        return out

    def block_features(self, cells: Tensor, step: int) -> Tensor:
        """Output of the last block, [B, WIDTH, h, w], at every sampled location."""
        x = cells[:, :, :: subsample(step), :: subsample(step)]
        for block in self.blocks:
            x = block(x)
        return x

    def macs(self, grid: tuple[int, int], step: int) -> int:
        """Multiply-adds for a grid of patches; the interpolation is not counted."""
        height, width = (-(-side // subsample(step)) for side in grid)
        weights = [module.weight.numel() for module in self.modules() if isinstance(module, nn.Conv2d)]
        return height * width * sum(weights)


def subsample(step: int) -> int:
    """Subsampling factor: every n-th patch is used, so that cells are SPACING pixels apart, or more."""
    return max(1, SPACING // step)


def upsampling_weights(count: int, step: int, like: Tensor) -> Tensor:
    """Linear weights [count, sampled] that interpolate all of `count` locations from the sampled ones.

    Computed on the device of `like`, by arithmetic alone: a CUDA graph may capture it.
    """
    sampled = torch.arange(-(-count // subsample(step)), device=like.device)
    position = (torch.arange(count, device=like.device) / subsample(step)).clamp(max=len(sampled) - 1)
    return F.relu(1 - (position[:, None] - sampled).abs()).to(like.dtype)
