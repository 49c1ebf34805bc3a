"""The pretrained Local-Net: EfficientNet-Lite0's first six blocks as valid convolutions.

83 pixels are the receptive field of a cell behind the sixth block, so a patch has 83. Without padding the network
computes the same from a patch as from the image that contains it, so nothing has to be distilled: `z_l` is a linear
projection of the blocks' outputs at three depths, each averaged over the middle cells of the patch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glance_fast.models.context_net import ContextNet
from glance_fast.models.inverted_bottleneck import BlockSpec, InvertedBottleneck
from glance_fast.models.patch_encoder import PatchEncoder, Stem, Taps
from glance_fast.plan.patches import FeatureMapSpec


@dataclass(frozen=True)
class LinearInputs:
    """What the linear parts of Local-Net read, of one batch of images.

    `taps` [B, t, gy, gx] is projected to z_patch, `context` [B, c, h, w] to z_context, None without context features;
    `feature_map` [B, channels, h, w] is standardised for Global-Net.
    """

    taps: Tensor
    feature_map: Tensor
    context: Tensor | None


@dataclass(frozen=True)
class Tap:
    """Output of block number `block`, averaged over the middle `cells` x `cells` cells of a patch."""

    block: int
    cells: int


@dataclass(frozen=True)
class BlockSampling:
    """How a block runs on an image: stride, dilation, and the pixels between neighbouring cells of its output."""

    stride: int
    dilation: int
    spacing: int


STEM = 32
STEM_STRIDE = 2
RELU6_MAX = 6.0
LOCAL_NET_BLOCKS = (
    BlockSpec(3, 1, STEM, 1, 16),
    BlockSpec(3, 2, 16, 6, 24),
    BlockSpec(3, 1, 24, 6, 24),
    BlockSpec(5, 2, 24, 6, 40),
    BlockSpec(5, 1, 40, 6, 40),
    BlockSpec(3, 2, 40, 6, 80),
)
# Image AUROC on magnetic tiles of one Gaussian per location, 761 images: the last map alone 0.916, with the three
# other taps 0.928 (bench/log/accuracy.md).
TAPS = (Tap(5, 1), Tap(4, 3), Tap(2, 5), Tap(2, 17))


def _receptive_fields() -> tuple[list[int], list[int]]:
    """Receptive field of a cell and pixels between cells behind each block."""
    field, jump, fields, jumps = 3, 2, [], []
    for block in LOCAL_NET_BLOCKS:
        field, jump = field + (block.kernel - 1) * jump, jump * block.stride
        fields.append(field)
        jumps.append(jump)
    return fields, jumps


FIELDS, JUMPS = _receptive_fields()
PATCH = FIELDS[-1]
WIDTH = sum(LOCAL_NET_BLOCKS[tap.block].after for tap in TAPS)


def feature_map_spec(block: int) -> FeatureMapSpec:
    """The map behind a block, for Global-Net to read."""
    return FeatureMapSpec(FIELDS[block], JUMPS[block], LOCAL_NET_BLOCKS[block].after)


class PretrainedLocalNet(PatchEncoder):
    """The teacher's first blocks, for patches of PATCH pixels.

    Steps must be divisible by the stride of the output of block `feature_block`, which Global-Net reads. With
    `context_features` the patches must form a grid, as `ContextNet` reads their neighbours.
    """

    feature_map_mean: Tensor
    feature_map_std: Tensor

    def __init__(self, features: int, context_features: int = 0, feature_block: int = 2) -> None:
        super().__init__()
        self.feature_block, self.feature_map_spec = feature_block, feature_map_spec(feature_block)
        # Brings the map that Global-Net reads to mean 0, variance 1: without it, training does not get going.
        self.register_buffer("feature_map_mean", torch.zeros(self.feature_map_spec.channels, 1, 1))
        self.register_buffer("feature_map_std", torch.ones(self.feature_map_spec.channels, 1, 1))
        self.stem_conv = nn.Conv2d(3, STEM, 3)
        self.blocks = nn.ModuleList(InvertedBottleneck(spec) for spec in LOCAL_NET_BLOCKS)
        self.project = nn.Conv2d(WIDTH, features, 1)
        self.context_net = ContextNet(context_features) if context_features else None
        # One 256x256 image with its border padding, 2 cores: 15 ms in this layout, 26 ms in the default layout.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def stem(self, images: Tensor, step: int | None = None) -> Tensor:
        """The teacher's first convolution, [B, 32, (H-3)//2 + 1, (W-3)//2 + 1] of images [B, 3, H, W]."""
        x = images.contiguous(memory_format=torch.channels_last)
        return F.relu6(F.conv2d(x, self.stem_conv.weight, self.stem_conv.bias, stride=STEM_STRIDE))

    def stem_layer(self, step: int) -> Stem:
        return Stem(self.stem_conv, STEM_STRIDE, RELU6_MAX)

    def taps_from_stem(self, stem: Tensor, step: int | None = None) -> Taps:
        """All taps [B, WIDTH, gy, gx], concatenated, and the standardised output of block `feature_block`."""
        step = step or JUMPS[-1]
        # A stem of h cells is that of 2h + 1 or 2h + 2 pixels, which hold as many patches, as steps are even.
        grid = [(2 * side + 1 - PATCH) // step + 1 for side in stem.shape[2:]]
        x, maps, sampling = stem, [], self.sampling(step)
        for block, sampled in zip(self.blocks, sampling, strict=True):
            x = block(x, sampled.stride, sampled.dilation)
            maps.append(x)
        taps = [_mean(maps[tap.block], tap, middle(sampling[tap.block].spacing, tap, step)) for tap in TAPS]
        features = torch.cat([tap[:, :, : grid[0], : grid[1]] for tap in taps], dim=1)
        return Taps(features, self._standardised(maps[self.feature_block]))

    def project_taps(self, taps: Tensor) -> Tensor:
        z_patch: Tensor = self.project(taps)
        return z_patch

    def context(self, taps: Tensor, step: int | None = None) -> Tensor | None:
        if self.context_net is None:
            return None
        z_context: Tensor = self.context_net(self.last_tap(taps), step or JUMPS[-1])
        return z_context

    @staticmethod
    def last_tap(taps: Tensor) -> Tensor:
        """The tap of the last block, [B, 80, gy, gx] of all taps [B, WIDTH, gy, gx]."""
        return taps[:, : LOCAL_NET_BLOCKS[-1].after]

    def teacher_layers(self) -> list[nn.Conv2d]:
        """The convolutions that are copied from the teacher, in its order."""
        parts = [self.stem_conv, self.blocks, *([self.context_net.blocks] if self.context_net else [])]
        return [module for part in parts for module in part.modules() if isinstance(module, nn.Conv2d)]

    def linear_inputs(self, images: Tensor, step: int) -> LinearInputs:
        """What the linear parts read."""
        output = self.taps_from_stem(self.stem(images, step), step)
        assert output.feature_map is not None
        context = self.context_net.block_features(self.last_tap(output.features), step) if self.context_net else None
        return LinearInputs(output.features, output.feature_map, context)

    def set_feature_map_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Standardise the feature map by these, each [channels]."""
        self.feature_map_mean.copy_(mean[:, None, None])
        self.feature_map_std.copy_(std[:, None, None])

    @property
    def context_project(self) -> nn.Conv2d | None:
        return self.context_net.project if self.context_net else None

    def feature_map(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for block, spec in zip(self.blocks[: self.feature_block + 1], LOCAL_NET_BLOCKS, strict=False):
            x = block(x, spec.stride, 1)
        return self._standardised(x)

    @staticmethod
    def sampling(step: int) -> tuple[BlockSampling, ...]:
        """How each block runs on an image whose patches are `step` pixels apart."""
        spacing, jump, blocks = 2, 2, []
        for spec in LOCAL_NET_BLOCKS:
            # A stride that would skip patches becomes dilation of the blocks after it: the same function of a patch.
            stride = spec.stride if step % (spacing * spec.stride) == 0 else 1
            dilation = jump // spacing
            spacing, jump = spacing * stride, jump * spec.stride
            blocks.append(BlockSampling(stride, dilation, spacing))
        return tuple(blocks)

    def _standardised(self, feature_map: Tensor) -> Tensor:
        return (feature_map - self.feature_map_mean) / self.feature_map_std

    def macs(self, image_size: tuple[int, int], step: int) -> int:
        """Multiply-adds of one image, its border padding included in `image_size`; the means are not counted."""
        height, width = ((side - 3) // 2 + 1 for side in image_size)
        total = height * width * self.stem_conv.weight.numel()
        for spec, block in zip(LOCAL_NET_BLOCKS, self.sampling(step), strict=True):
            expanded, reach = spec.before * spec.expand, (spec.kernel - 1) * block.dilation
            total += height * width * spec.before * expanded * (spec.expand > 1)
            height, width = (height - reach - 1) // block.stride + 1, (width - reach - 1) // block.stride + 1
            total += height * width * expanded * (spec.kernel**2 + spec.after)
        rows, cols = ((side - PATCH) // step + 1 for side in image_size)
        context = self.context_net.macs((rows, cols), step) if self.context_net else 0
        return total + rows * cols * self.project.weight.numel() + context


@dataclass(frozen=True)
class MiddleCells:
    """The mean over the middle cells of each patch, as a convolution: its first cell, dilation and stride."""

    first: int
    dilation: int
    stride: int


def middle(spacing: int, tap: Tap, step: int) -> MiddleCells:
    """The middle cells of each patch.

    For patches `step` pixels apart in a map whose cells are `spacing` pixels apart.
    """
    jump = JUMPS[tap.block]
    cells = (PATCH - FIELDS[tap.block]) // jump + 1
    return MiddleCells((cells - tap.cells) // 2 * jump // spacing, jump // spacing, step // spacing)


def _mean(x: Tensor, tap: Tap, cells: MiddleCells) -> Tensor:
    x = x[:, :, cells.first :, cells.first :]
    if cells.dilation == 1:
        return F.avg_pool2d(x, tap.cells, cells.stride)
    weight = x.new_full((x.shape[1], 1, tap.cells, tap.cells), 1 / tap.cells**2)
    return F.conv2d(x, weight, stride=cells.stride, dilation=cells.dilation, groups=x.shape[1])
