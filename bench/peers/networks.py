"""The peers' networks from pixels to anomaly map, for timing: published architectures with random weights.

Speed does not depend on the weights; `bench.peers.methods` has the peers that are fitted and judged. Each is verified
by its number of parameters and multiply-adds (`tests/bench/test_runtimes.py`). Images are float32 [B, 3, 256, 256],
maps float32 [B, 1, h, w].

- EfficientAD-S and -M, Batzner, Heckler, König, WACV 2024: teacher, student and autoencoder of the paper's tables, 8.1
  and 20.7 M parameters.
- STFPM, Wang, Han, Ding, Huang, BMVC 2021: two ResNet-18 up to layer3, the cosine distances of each level, multiplied.
- PaDiM, Defard, Setkov, Loesch, Audigier, ICPR workshops 2021: ResNet-18 up to layer3, 100 of its 448 channels,
  Mahalanobis distance at each of the 64x64 locations.
- PatchCore, Roth, Pemula, Zepeda, Schölkopf, Brox, Gehler, CVPR 2022: ResNet-18 or Wide ResNet-50-2 up to layer3, maps
  of layer2 and layer3 averaged over 3x3 cells, the distance to the nearest of a tenth of the vectors of 200 images. A
  matrix product finds it, as a runtime has no search; the map is left unsmoothed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.peers.features import ResNet18Features, WideResNet50Features, average_3x3, concatenate_maps

SIZE = 256


def _pdn(channels: int) -> nn.Sequential:
    """The small patch description network, without padding."""
    return nn.Sequential(
        nn.Conv2d(3, 128, 4), nn.ReLU(), nn.AvgPool2d(2, 2),
        nn.Conv2d(128, 256, 4), nn.ReLU(), nn.AvgPool2d(2, 2),
        nn.Conv2d(256, 256, 3), nn.ReLU(),
        nn.Conv2d(256, channels, 4),
    )  # fmt: skip


def _medium_pdn(channels: int) -> nn.Sequential:
    """The medium patch description network."""
    return nn.Sequential(
        nn.Conv2d(3, 256, 4), nn.ReLU(), nn.AvgPool2d(2, 2),
        nn.Conv2d(256, 512, 4), nn.ReLU(), nn.AvgPool2d(2, 2),
        nn.Conv2d(512, 512, 1), nn.ReLU(),
        nn.Conv2d(512, 512, 3), nn.ReLU(),
        nn.Conv2d(512, channels, 4), nn.ReLU(),
        nn.Conv2d(channels, channels, 1),
    )  # fmt: skip


class _AutoEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 32, 64, 64, 64)
        down: list[nn.Module] = []
        for before, width in pairwise(widths):
            down += [nn.Conv2d(before, width, 4, 2, 1), nn.ReLU()]
        self.encode = nn.Sequential(*down, nn.Conv2d(64, 64, 8))
        self.sizes = (3, 8, 15, 32, 63, 127)
        self.decode = nn.ModuleList(nn.Conv2d(64, 64, 4, 1, 2) for _ in self.sizes)
        self.last = nn.Sequential(nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU(), nn.Conv2d(64, 384, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = self.encode(images)
        for size, conv in zip(self.sizes, self.decode, strict=True):
            x = F.relu(conv(F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)))
        out: Tensor = self.last(F.interpolate(x, size=(56, 56), mode="bilinear", align_corners=False))
        return out


class EfficientAdNetwork(nn.Module):
    """The mean of the student's distances from teacher and autoencoder; `pdn(channels)` makes student and teacher."""

    def __init__(self, pdn: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.teacher, self.student, self.autoencoder = pdn(384), pdn(768), _AutoEncoder()

    def forward(self, images: Tensor) -> Tensor:
        teacher, student = self.teacher(images), self.student(images)
        from_teacher = (teacher - student[:, :384]).square().mean(1, keepdim=True)
        from_autoencoder = (self.autoencoder(images) - student[:, 384:]).square().mean(1, keepdim=True)
        return F.interpolate(
            F.pad((from_teacher + from_autoencoder) / 2, (4, 4, 4, 4)), size=(SIZE, SIZE), mode="bilinear"
        )


class PatchCoreNetwork(nn.Module):
    """Distances to the nearest normal vector; `features` gives three maps, the last two have `width` channels."""

    MEMORY = 200 * 32 * 32 // 10
    memory: Tensor
    squares: Tensor

    def __init__(self, features: Callable[[], nn.Module], width: int) -> None:
        super().__init__()
        self.features = features()
        self.register_buffer("memory", torch.randn(width, self.MEMORY))
        self.register_buffer("squares", self.memory.square().sum(0))

    def forward(self, images: Tensor) -> Tensor:
        _, *maps = self.features(images)
        height, width = maps[0].shape[2:]
        rows = concatenate_maps([average_3x3(x) for x in maps]).flatten(2).transpose(1, 2)
        nearest = (self.squares - 2 * (rows @ self.memory)).amin(-1)
        squared = (nearest + rows.square().sum(-1)).clamp(min=0)
        grid = squared.sqrt().reshape(-1, 1, height, width)
        return F.interpolate(grid, size=(SIZE, SIZE), mode="bilinear", align_corners=False)


class StfpmNetwork(nn.Module):
    """The product over the levels of the distances between normalized features."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.student = ResNet18Features(), ResNet18Features()

    def forward(self, images: Tensor) -> Tensor:
        product: Tensor | None = None
        for a, b in zip(self.teacher(images), self.student(images), strict=True):
            distance = 0.5 * (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1, keepdim=True)
            level = F.interpolate(distance, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
            product = level if product is None else product * level
        assert product is not None
        return product


class PaDiMNetwork(nn.Module):
    """Mahalanobis distances at the locations of layer1's map."""

    CHANNELS, SIDE = 100, 64
    selected: Tensor
    mean: Tensor
    inverse: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = ResNet18Features()
        locations = self.SIDE**2
        self.register_buffer("selected", torch.randperm(448)[: self.CHANNELS])
        self.register_buffer("mean", torch.randn(locations, self.CHANNELS))
        self.register_buffer("inverse", torch.randn(locations, self.CHANNELS, self.CHANNELS))

    def forward(self, images: Tensor) -> Tensor:
        stacked = concatenate_maps(self.features(images), mode="nearest")
        rows = stacked.index_select(1, self.selected).flatten(2).permute(2, 0, 1)
        centred = rows - self.mean[:, None]
        squared = (centred @ self.inverse * centred).sum(-1).abs().sqrt()
        grid = squared.transpose(-2, -1).reshape(-1, 1, self.SIDE, self.SIDE)
        return F.interpolate(grid, size=(SIZE, SIZE), mode="bilinear", align_corners=False)


PEER_NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "EfficientAD-S": partial(EfficientAdNetwork, _pdn),
    "EfficientAD-M": partial(EfficientAdNetwork, _medium_pdn),
    "STFPM ResNet-18": StfpmNetwork,
    "PaDiM ResNet-18": PaDiMNetwork,
    "PatchCore ResNet-18": partial(PatchCoreNetwork, ResNet18Features, 128 + 256),
    "PatchCore Wide ResNet-50": partial(PatchCoreNetwork, WideResNet50Features, 512 + 1024),
}
