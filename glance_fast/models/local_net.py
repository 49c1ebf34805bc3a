"""The distilled Local-Net: z_l of a patch, computed from its pixels alone by a small network trained on a teacher."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count

import torch.nn.functional as F
from torch import Tensor, nn

from glance_fast.models.patch_encoder import PatchEncoder, Stem, Taps
from glance_fast.plan.patches import IMAGE


@dataclass(frozen=True)
class Window:
    """Kernel and stride of one valid convolution."""

    kernel: int
    stride: int


def windows_for(patch: int) -> list[Window]:
    """Kernels and strides of valid convolutions whose receptive field is exactly `patch` pixels a side, patch >= 8.

    Convolutions of 3 with strides 1 and 2 alternate; the first kernel absorbs the remainder of the total stride, and
    the last covers the rest of the patch.
    """
    halvings = max(1, patch.bit_length() - 4)
    middle = [Window(3, 1)] + [Window(3, stride) for _ in range(halvings - 1) for stride in (2, 1)]
    for first in count(3):
        field, jump = first, 2
        for window in middle:
            field, jump = field + (window.kernel - 1) * jump, jump * window.stride
        if (patch - field) % jump == 0:
            return [Window(first, 2), *middle, Window((patch - field) // jump + 1, 1)]
    raise AssertionError("unreachable: count() does not end")


class DistilledLocalNet(PatchEncoder):
    """Valid convolutions with ReLU, then a linear 1x1 projection: `z_l = L(patch)`; no padding, no normalisation.

    Global-Net reads the image itself.
    """

    feature_map_spec = IMAGE

    def __init__(self, patch: int, features: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.windows = windows_for(patch)
        widths = [channels[min(i, len(channels) - 1)] for i in range(len(self.windows))]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, width, window.kernel)
            for before, width, window in zip([3, *widths], widths, self.windows, strict=False)
        )
        self.project = nn.Conv2d(widths[-1], features, 1)
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)

    def stem(self, images: Tensor, step: int | None = None) -> Tensor:
        return self._convolve(images, step, 0, 1)

    def stem_layer(self, step: int) -> Stem:
        conv, (stride, _) = self.convs[0], self.sampling(step)[0]
        assert isinstance(conv, nn.Conv2d)
        return Stem(conv, stride, math.inf)

    def taps_from_stem(self, stem: Tensor, step: int | None = None) -> Taps:
        """z_l itself: projected here, it is the smallest array to keep per strip."""
        return Taps(self.project(self._convolve(stem, step, 1, len(self.convs))), None)

    def project_taps(self, taps: Tensor) -> Tensor:
        return taps

    def feature_map(self, images: Tensor) -> Tensor:
        return images

    def _convolve(self, x: Tensor, step: int | None, first: int, stop: int) -> Tensor:
        for conv, (stride, dilation) in zip(self.convs[first:stop], self.sampling(step)[first:stop], strict=True):
            assert isinstance(conv, nn.Conv2d)
            x = F.relu(F.conv2d(x, conv.weight, conv.bias, stride=stride, dilation=dilation))
        return x

    def sampling(self, step: int | None) -> list[tuple[int, int]]:
        """(stride, dilation) of each convolution when patches are `step` pixels apart.

        A convolution keeps its stride while its output still has a cell for every patch. A stride that would skip
        patches becomes dilation of the layers after it, which is the same function of each patch.
        """
        spacing, jump = 1, 1
        sampling: list[tuple[int, int]] = []
        for window in self.windows:
            last = len(sampling) == len(self.windows) - 1
            stride = window.stride
            if step is not None:
                stride = step // spacing if last else stride if step % (spacing * stride) == 0 else 1
            sampling.append((stride, jump // spacing))
            spacing, jump = spacing * stride, jump * window.stride
        return sampling

    def macs(self, image_size: tuple[int, int], step: int) -> int:
        height, width = image_size
        total = 0
        for conv, (stride, dilation) in zip(self.convs, self.sampling(step), strict=True):
            assert isinstance(conv, nn.Conv2d)
            reach = (conv.kernel_size[0] - 1) * dilation
            height, width = (height - reach - 1) // stride + 1, (width - reach - 1) // stride + 1
            total += height * width * conv.weight.numel()
        return total + height * width * self.project.weight.numel()
