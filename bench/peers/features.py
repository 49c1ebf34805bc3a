"""Backbones of the peers' networks, and how maps of several levels are joined into one vector per location."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glance_fast.teachers.resnet18 import fold_batch_norms, resnet18


def average_3x3(feature_map: Tensor) -> Tensor:
    """The mean over 3x3 cells around each cell, zeros outside: PatchCore's neighbourhoods. [B, C, h, w] stays so."""
    return F.avg_pool2d(feature_map, 3, 1, 1)


def concatenate_maps(maps: Sequence[Tensor], mode: str = "bilinear") -> Tensor:
    """Maps [B, C_i, h_i, w_i], resized to the first and concatenated: [B, sum of C_i, h_0, w_0]."""
    first, *others = maps
    corners = {"align_corners": False} if mode == "bilinear" else {}
    resized = [F.interpolate(other, size=first.shape[2:], mode=mode, **corners) for other in others]
    return torch.cat([first, *resized], dim=1)


class _Levels(nn.Module):
    """Modules in a row; the output of each is one map."""

    def __init__(self, levels: Sequence[nn.Module]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps, x = [], images
        for level in self.levels:
            x = level(x)
            maps.append(x)
        return maps


class ResNet18Features(_Levels):
    """ResNet-18's maps after layer1, layer2 and layer3, batch norms folded."""

    def __init__(self) -> None:
        network = resnet18().eval()
        fold_batch_norms(network)
        first = [network.get_submodule(name) for name in ("conv1", "relu", "maxpool", "layer1")]
        super().__init__([nn.Sequential(*first), network.get_submodule("layer2"), network.get_submodule("layer3")])


class _Bottleneck(nn.Module):
    """A block of Wide ResNet-50-2, its batch norms folded into convolutions with a bias."""

    def __init__(self, before: int, inner: int, stride: int) -> None:
        super().__init__()
        after = 2 * inner
        self.body = nn.Sequential(
            nn.Conv2d(before, inner, 1), nn.ReLU(),
            nn.Conv2d(inner, inner, 3, stride, 1), nn.ReLU(),
            nn.Conv2d(inner, after, 1),
        )  # fmt: skip
        self.shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class WideResNet50Features(_Levels):
    """Wide ResNet-50-2's maps after layer1, layer2 and layer3."""

    def __init__(self) -> None:
        stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        levels: list[nn.Module] = []
        before = 64
        for inner, count, stride in ((128, 3, 1), (256, 4, 2), (512, 6, 2)):
            blocks: list[nn.Module] = [] if levels else [stem]
            for block in range(count):
                blocks.append(_Bottleneck(before, inner, stride if block == 0 else 1))
                before = 2 * inner
            levels.append(nn.Sequential(*blocks))
        super().__init__(levels)
