"""Local-Net: what is in a patch, seen from the patch alone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import torch.nn.functional as F
from torch import Tensor, nn

from glance_fast.plan.patches import IMAGE


@dataclass(frozen=True)
class Window:
    """Kernel and stride of one valid convolution."""

    kernel: int
    stride: int


def windows_for(patch: int) -> list[Window]:
    """Kernels and strides of the valid convolutions that see exactly `patch` pixels a side, patch >= 8.

    Convolutions of 3 at strides 1 and 2 in turn; the first kernel takes up the remainder that the total
    stride leaves, and the last covers what is then left of the patch.
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


class LocalNet(nn.Module):
    """Valid convolutions with ReLU, then a linear 1x1 projection: `z_l = L(patch)`; no padding, no norm.

    Called on patches [N, 3, P, P] it gives [N, n, 1, 1]. Called on images [B, 3, H, W] with `step` it gives
    the same numbers for every patch at multiples of `step` pixels: [B, n, (H-P)//step + 1, (W-P)//step + 1].
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

    def forward(self, images: Tensor, step: int | None = None) -> Tensor:
        return self.see_behind(self.stem_of(images, step), step)

    def stem_of(self, images: Tensor, step: int | None = None) -> Tensor:
        """The first convolution."""
        return self._through(images, step, 0, 1)

    def see_behind(self, stem: Tensor, step: int | None = None) -> Tensor:
        """z_l of images whose stem is known already, `stem_of` them."""
        out: Tensor = self.project(self._through(stem, step, 1, len(self.convs)))
        return out

    def _through(self, x: Tensor, step: int | None, first: int, stop: int) -> Tensor:
        for conv, (stride, dilation) in zip(self.convs[first:stop], self.sampling(step)[first:stop], strict=True):
            assert isinstance(conv, nn.Conv2d)
            x = F.relu(F.conv2d(x, conv.weight, conv.bias, stride=stride, dilation=dilation))
        return x

    def see(self, images: Tensor, step: int | None = None) -> tuple[Tensor, Tensor]:
        """z_l as `forward` gives it, and what Global-Net reads: the images themselves."""
        return self(images, step), images

    def see_alone(self, images: Tensor, step: int | None = None) -> tuple[Tensor, Tensor]:
        """The same: here z_l says nothing of what surrounds a patch."""
        return self.see(images, step)

    def describe(self, images: Tensor, step: int | None = None) -> tuple[Tensor, Tensor]:
        """What is known of each patch alone before it is joined to z_l: z_l itself; and what Global-Net reads."""
        return self.see(images, step)

    def join(self, told: Tensor, step: int | None = None) -> Tensor:
        """z_l of what `describe` tells of a grid of patches."""
        return told

    def read(self, images: Tensor) -> Tensor:
        """What Global-Net reads of images: they themselves."""
        return images

    def sampling(self, step: int | None) -> list[tuple[int, int]]:
        """(stride, dilation) of each convolution when patches lie `step` pixels apart.

        A stride is taken while the samples that it leaves still include every patch; one that would skip
        patches is traded for dilation in the layers after it, which is the same function of each patch.
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
        """Multiply-adds of one image."""
        height, width = image_size
        total = 0
        for conv, (stride, dilation) in zip(self.convs, self.sampling(step), strict=True):
            assert isinstance(conv, nn.Conv2d)
            reach = (conv.kernel_size[0] - 1) * dilation
            height, width = (height - reach - 1) // stride + 1, (width - reach - 1) // stride + 1
            total += height * width * conv.weight.numel()
        return total + height * width * self.project.weight.numel()
