"""The inverted bottleneck, EfficientNet-Lite0's block, its batch norms folded into its convolutions."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class BlockSpec:
    """Sizes of an inverted bottleneck: 1x1 to `before * expand` channels, depthwise `kernel` at `stride`, 1x1."""

    kernel: int
    stride: int
    before: int
    expand: int
    after: int


class InvertedBottleneck(nn.Module):
    """An inverted bottleneck [B, before, H, W] -> [B, after, h, w].

    Without `padded` its depthwise convolution is valid; with it, zeros pad the expanded map.
    """

    def __init__(self, spec: BlockSpec, padded: bool = False) -> None:
        super().__init__()
        expanded = spec.before * spec.expand
        self.shortcut = spec.stride == 1 and spec.before == spec.after
        self.reach = (spec.kernel - 1) // 2
        self.padding = self.reach if padded else 0
        self.expand = nn.Conv2d(spec.before, expanded, 1) if spec.expand > 1 else None
        self.depthwise = nn.Conv2d(expanded, expanded, spec.kernel, groups=expanded)
        self.project = nn.Conv2d(expanded, spec.after, 1)

    def forward(self, x: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        depthwise = self.depthwise
        padding = self.padding * dilation
        y = F.conv2d(y, depthwise.weight, depthwise.bias, stride, padding, dilation, groups=depthwise.groups)
        y = self.project(F.relu6(y))
        if self.shortcut:
            edge = (self.reach - self.padding) * dilation
            y = y + x[:, :, edge : x.shape[2] - edge, edge : x.shape[3] - edge]
        out: Tensor = y
        return out
