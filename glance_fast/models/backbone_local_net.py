"""A Local-Net that is the teacher's own beginning: EfficientNet-Lite0's first six blocks as valid convolutions.

A patch of 83 pixels is exactly what one cell behind the sixth block sees. Without padding the network gives the
same on a patch and on the image that the patch is in, so nothing has to be distilled: `z_l` is a linear projection of
what the blocks say of the patch, at three depths, each averaged over some of its cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glance_fast.models.context_net import WideNet
from glance_fast.models.inverted_bottleneck import Block, BlockSpec
from glance_fast.plan.patches import FeatureMapSpec


@dataclass(frozen=True)
class Tap:
    """What is kept of the map behind block `block`: its mean over the `cells` x `cells` middle cells of a patch."""

    block: int
    cells: int


@dataclass(frozen=True)
class Sampling:
    """(stride, dilation) of each block, and the pixels between neighbouring cells of the map behind it."""

    blocks: tuple[tuple[int, int], ...]
    spacings: tuple[int, ...]


STEM = 32
STEM_STRIDE = 2
BLOCKS = (
    BlockSpec(3, 1, STEM, 1, 16),
    BlockSpec(3, 2, 16, 6, 24),
    BlockSpec(3, 1, 24, 6, 24),
    BlockSpec(5, 2, 24, 6, 40),
    BlockSpec(5, 1, 40, 6, 40),
    BlockSpec(3, 2, 40, 6, 80),
)
# Image AUROC on magnetic tiles of a Gaussian a location, 761 images: the last map alone 0.916, with the three other
# taps 0.928 (bench/log/accuracy.md).
TAPS = (Tap(5, 1), Tap(4, 3), Tap(2, 5), Tap(2, 17))


def _fields() -> tuple[list[int], list[int]]:
    """Pixels that a cell sees, and pixels between cells, behind each block."""
    field, jump, fields, jumps = 3, 2, [], []
    for block in BLOCKS:
        field, jump = field + (block.kernel - 1) * jump, jump * block.stride
        fields.append(field)
        jumps.append(jump)
    return fields, jumps


FIELDS, JUMPS = _fields()
PATCH = FIELDS[-1]
WIDTH = sum(BLOCKS[tap.block].after for tap in TAPS)


def feature_map_spec(block: int) -> FeatureMapSpec:
    """The map behind a block, for Global-Net to read."""
    return FeatureMapSpec(FIELDS[block], JUMPS[block], BLOCKS[block].after)


class TrunkNet(nn.Module):
    """Local-Net from the teacher: the same calls as `LocalNet`, for patches of PATCH pixels.

    Steps must be divisible by the stride of the map behind `read_block`, which Global-Net reads.

    With `wide` directions of `WideNet` they stand behind z_l, for patches that lie on a grid.
    """

    read_mean: Tensor
    read_deviation: Tensor

    def __init__(self, features: int, wide: int = 0, read_block: int = 2) -> None:
        super().__init__()
        self.read_block, self.feature_map_spec = read_block, feature_map_spec(read_block)
        # Brings the map that Global-Net reads to mean 0, variance 1: left as it is, training does not get going.
        self.register_buffer("read_mean", torch.zeros(self.feature_map_spec.channels, 1, 1))
        self.register_buffer("read_deviation", torch.ones(self.feature_map_spec.channels, 1, 1))
        self.stem = nn.Conv2d(3, STEM, 3)
        self.blocks = nn.ModuleList(Block(spec) for spec in BLOCKS)
        self.project = nn.Conv2d(WIDTH, features, 1)
        self.wide = WideNet(wide) if wide else None
        # One 256x256 image with its overhang, 2 cores: 15 ms in this layout, 26 ms in the usual one.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor, step: int | None = None) -> Tensor:
        """z_l [B, n, (H-83)//step + 1, (W-83)//step + 1] of images [B, 3, H, W]; without `step` of single patches."""
        return self.see(images, step)[0]

    def see(self, images: Tensor, step: int | None = None) -> tuple[Tensor, Tensor]:
        """z_l as `forward` gives it, and the map that Global-Net reads."""
        taps, read = self.describe(images, step)
        return self.join(taps, step), read

    def see_behind(self, stem: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The same of images whose stem is known already, `stem_of` them."""
        taps, read = self._behind(stem, step)
        return self.join(taps, step), read

    def see_alone(self, images: Tensor, step: int | None = None) -> tuple[Tensor, Tensor]:
        """What Global-Net is asked to expect, z_l without what surrounds a patch; and the map that it reads."""
        taps, read = self.describe(images, step)
        return self.project(taps), read

    def join(self, taps: Tensor, step: int | None = None) -> Tensor:
        """z_l of the taps of a grid of patches, and behind it what the patches around each say together."""
        z_local: Tensor = self.project(taps)
        if self.wide is None:
            return z_local
        return torch.cat([z_local, self.wide(self.last(taps), step or JUMPS[-1])], dim=1)

    @staticmethod
    def last(taps: Tensor) -> Tensor:
        """Of the taps those of the last block, [B, 80, gy, gx]."""
        return taps[:, : BLOCKS[-1].after]

    def read(self, images: Tensor) -> Tensor:
        """The map that Global-Net reads, [B, channels, h, w] of `feature_map_spec`."""
        x = self.stem_of(images)
        for block, spec in zip(self.blocks[: self.read_block + 1], BLOCKS, strict=False):
            x = block(x, spec.stride, 1)
        return self._standardised(x)

    def describe(self, images: Tensor, step: int | None = None) -> tuple[Tensor, Tensor]:
        """All taps [B, WIDTH, gy, gx] side by side, before the projection, and the map that Global-Net reads."""
        return self._behind(self.stem_of(images), step or JUMPS[-1])

    def _behind(self, stem: Tensor, step: int) -> tuple[Tensor, Tensor]:
        # A stem of h cells is that of 2h + 1 or 2h + 2 pixels, which hold as many patches, as steps are even.
        size = [(2 * side + 1 - PATCH) // step + 1 for side in stem.shape[2:]]
        x, maps, sampling = stem, [], self.sampling(step)
        for block, (stride, dilation) in zip(self.blocks, sampling.blocks, strict=True):
            x = block(x, stride, dilation)
            maps.append(x)
        taps = [_mean(maps[tap.block], tap, *middle(sampling.spacings[tap.block], tap, step)) for tap in TAPS]
        cut = [tap[:, :, : size[0], : size[1]] for tap in taps]
        return torch.cat(cut, dim=1), self._standardised(maps[self.read_block])

    @staticmethod
    def sampling(step: int) -> Sampling:
        """How the blocks run on an image whose patches lie `step` pixels apart."""
        spacing, jump, blocks, spacings = 2, 2, [], []
        for spec in BLOCKS:
            # A stride that would skip patches is traded for dilation in what follows: the same function of a patch.
            stride = spec.stride if step % (spacing * spec.stride) == 0 else 1
            blocks.append((stride, jump // spacing))
            spacing, jump = spacing * stride, jump * spec.stride
            spacings.append(spacing)
        return Sampling(tuple(blocks), tuple(spacings))

    def _standardised(self, read: Tensor) -> Tensor:
        return (read - self.read_mean) / self.read_deviation

    def stem_of(self, images: Tensor) -> Tensor:
        """The teacher's first convolution, [B, 32, (H-3)//2 + 1, (W-3)//2 + 1] of images [B, 3, H, W]."""
        x = images.contiguous(memory_format=torch.channels_last)
        return F.relu6(F.conv2d(x, self.stem.weight, self.stem.bias, stride=STEM_STRIDE))

    def macs(self, image_size: tuple[int, int], step: int) -> int:
        """Multiply-adds of one image, its overhang included in `image_size`; the means are not counted."""
        height, width = ((side - 3) // 2 + 1 for side in image_size)
        total = height * width * self.stem.weight.numel()
        for spec, (stride, dilation) in zip(BLOCKS, self.sampling(step).blocks, strict=True):
            wide, reach = spec.before * spec.expand, (spec.kernel - 1) * dilation
            total += height * width * spec.before * wide * (spec.expand > 1)
            height, width = (height - reach - 1) // stride + 1, (width - reach - 1) // stride + 1
            total += height * width * wide * (spec.kernel**2 + spec.after)
        places = [(side - PATCH) // step + 1 for side in image_size]
        around = self.wide.macs((places[0], places[1]), step) if self.wide else 0
        return total + places[0] * places[1] * self.project.weight.numel() + around


def middle(spacing: int, tap: Tap, step: int) -> tuple[int, int, int]:
    """First cell, dilation and stride of the mean over each patch's middle cells.

    For patches `step` pixels apart in a map of cells `spacing` apart.
    """
    between = JUMPS[tap.block]
    inside = (PATCH - FIELDS[tap.block]) // between + 1
    return (inside - tap.cells) // 2 * between // spacing, between // spacing, step // spacing


def _mean(x: Tensor, tap: Tap, first: int, dilation: int, stride: int) -> Tensor:
    x = x[:, :, first:, first:]
    if dilation == 1:
        return F.avg_pool2d(x, tap.cells, stride)
    weight = x.new_full((x.shape[1], 1, tap.cells, tap.cells), 1 / tap.cells**2)
    return F.conv2d(x, weight, stride=stride, dilation=dilation, groups=x.shape[1])
