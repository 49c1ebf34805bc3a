"""The peers' networks from pixels to map, for timing: published architectures with random weights.

Speed does not depend on the weights. Each is checked by its number of parameters and multiply-adds
(`tests/test_runtimes.py`). Images are float [B, 3, 256, 256], maps [B, 1, h, w].

- EfficientAD-S and -M, Batzner, Heckler, König, WACV 2024: teacher, student and autoencoder of the paper's tables, 8.1
  and 20.7 M parameters.
- STFPM, Wang, Han, Ding, Huang, BMVC 2021: two ResNet-18 up to layer3, cosine distances a level, multiplied.
- PaDiM, Defard, Setkov, Loesch, Audigier, ICPR workshops 2021: ResNet-18 up to layer3, 100 of its 448 channels,
  Mahalanobis distance at each of the 64x64 places.
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

from glance_fast.teachers.base import fold_batch_norm
from glance_fast.teachers.resnet18 import resnet18

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
    """The medium one."""
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


class EfficientAD(nn.Module):
    """The mean of the student's distance from the teacher and from the autoencoder; `pdn` makes the first two."""

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


class _Features(nn.Module):
    """ResNet-18's maps behind layer1, layer2 and layer3, batch norms folded."""

    def __init__(self) -> None:
        super().__init__()
        network = resnet18().eval()
        fold_batch_norm(network, "conv1", "bn1")
        for block in [block for layer in (1, 2, 3) for block in network.get_submodule(f"layer{layer}").children()]:
            fold_batch_norm(block, "conv1", "bn1")
            fold_batch_norm(block, "conv2", "bn2")
            if isinstance(block.downsample, nn.Sequential):
                fold_batch_norm(block.downsample, "0", "1")
        names = ("conv1", "relu", "maxpool", "layer1")
        self.levels = nn.ModuleList(
            [
                nn.Sequential(*(network.get_submodule(name) for name in names)),
                network.get_submodule("layer2"),
                network.get_submodule("layer3"),
            ]
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        maps, x = [], images
        for level in self.levels:
            x = level(x)
            maps.append(x)
        return maps


class _Bottleneck(nn.Module):
    """Of a Wide ResNet-50-2, its batch norms folded into convolutions with a bias."""

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


class _WideFeatures(nn.Module):
    """Wide ResNet-50-2's maps behind layer1, layer2 and layer3."""

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        levels: list[nn.Module] = []
        before = 64
        for inner, count, stride in ((128, 3, 1), (256, 4, 2), (512, 6, 2)):
            blocks: list[nn.Module] = [] if levels else [stem]
            for block in range(count):
                blocks.append(_Bottleneck(before, inner, stride if block == 0 else 1))
                before = 2 * inner
            levels.append(nn.Sequential(*blocks))
        self.levels = nn.ModuleList(levels)

    forward = _Features.forward


class PatchCore(nn.Module):
    """Distances to the nearest normal vector; `features` gives the three maps, `width` the channels of two of them."""

    MEMORY = 200 * 32 * 32 // 10
    memory: Tensor
    squares: Tensor

    def __init__(self, features: Callable[[], nn.Module], width: int) -> None:
        super().__init__()
        self.features = features()
        self.register_buffer("memory", torch.randn(width, self.MEMORY))
        self.register_buffer("squares", self.memory.square().sum(0))

    def forward(self, images: Tensor) -> Tensor:
        _, middle, deep = (F.avg_pool2d(x, 3, 1, 1) for x in self.features(images))
        deep = F.interpolate(deep, size=middle.shape[2:], mode="bilinear", align_corners=False)
        rows = torch.cat([middle, deep], dim=1).flatten(2).transpose(1, 2)
        nearest = (self.squares - 2 * (rows @ self.memory)).amin(-1)
        squared = (nearest + rows.square().sum(-1)).clamp(min=0)
        grid = squared.sqrt().reshape(-1, 1, middle.shape[2], middle.shape[3])
        return F.interpolate(grid, size=(SIZE, SIZE), mode="bilinear", align_corners=False)


class STFPM(nn.Module):
    """The product over the levels of the distances of normalised features."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.student = _Features(), _Features()

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor | None = None
        for a, b in zip(self.teacher(images), self.student(images), strict=True):
            distance = 0.5 * (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1, keepdim=True)
            level = F.interpolate(distance, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
            out = level if out is None else out * level
        assert out is not None
        return out


class PaDiM(nn.Module):
    """Mahalanobis distances at the places of layer1's map."""

    KEPT, SIDE = 100, 64
    chosen: Tensor
    mean: Tensor
    inverse: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = _Features()
        places = self.SIDE**2
        self.register_buffer("chosen", torch.randperm(448)[: self.KEPT])
        self.register_buffer("mean", torch.randn(places, self.KEPT))
        self.register_buffer("inverse", torch.randn(places, self.KEPT, self.KEPT))

    def forward(self, images: Tensor) -> Tensor:
        maps = [F.interpolate(x, size=(self.SIDE, self.SIDE), mode="nearest") for x in self.features(images)]
        rows = torch.cat(maps, dim=1).index_select(1, self.chosen).flatten(2).permute(2, 0, 1)
        centred = rows - self.mean[:, None]
        squared = (centred @ self.inverse * centred).sum(-1).abs().sqrt()
        grid = squared.transpose(-2, -1).reshape(-1, 1, self.SIDE, self.SIDE)
        return F.interpolate(grid, size=(SIZE, SIZE), mode="bilinear", align_corners=False)


FORWARD: dict[str, Callable[[], nn.Module]] = {
    "EfficientAD-S": partial(EfficientAD, _pdn),
    "EfficientAD-M": partial(EfficientAD, _medium_pdn),
    "STFPM ResNet-18": STFPM,
    "PaDiM ResNet-18": PaDiM,
    "PatchCore ResNet-18": partial(PatchCore, _Features, 128 + 256),
    "PatchCore Wide ResNet-50": partial(PatchCore, _WideFeatures, 512 + 1024),
}
