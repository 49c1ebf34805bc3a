"""The interface of both Local-Nets: features of every patch on a grid, and the map that Global-Net reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from glance_fast.plan.patches import FeatureMapSpec


@dataclass(frozen=True)
class Taps:
    """Local-Net's output before `PatchEncoder.project_taps`.

    `features` is [B, t, gy, gx], one column per patch. `feature_map` is [B, channels, h, w] of `feature_map_spec`, or
    None where Global-Net reads the image itself.
    """

    features: Tensor
    feature_map: Tensor | None


@dataclass(frozen=True)
class Encoded:
    """Features of every patch on a grid, and the map that Global-Net reads, [B, channels, h, w].

    `z_patch` [B, n, gy, gx] depends on the pixels of its patch alone, `z_context` [B, m, gy, gx] on the patches around
    it; None for a Local-Net without context features.
    """

    z_patch: Tensor
    z_context: Tensor | None
    feature_map: Tensor

    @property
    def z_local(self) -> Tensor:
        """z_l: both kinds of features, [B, n + m, gy, gx]."""
        return self.z_patch if self.z_context is None else torch.cat([self.z_patch, self.z_context], dim=1)


@dataclass(frozen=True)
class Stem:
    """Local-Net's first convolution as it runs on images: its weights, its stride and where its values are clipped."""

    conv: nn.Conv2d
    stride: int
    max_value: float


class PatchEncoder(nn.Module, ABC):
    """Maps patches [N, 3, P, P] to z_l [N, n, 1, 1] without padding.

    On images [B, 3, H, W] with `step` it gives the same numbers for every patch at multiples of `step` pixels:
    [B, n, (H-P)//step + 1, (W-P)//step + 1]. Without `step` the images are single patches.
    """

    feature_map_spec: FeatureMapSpec
    project: nn.Conv2d

    @abstractmethod
    def stem(self, images: Tensor, step: int | None = None) -> Tensor:
        """The first convolution with its activation, [B, C, h, w] of images [B, 3, H, W]."""

    @abstractmethod
    def stem_layer(self, step: int) -> Stem:
        """The layer that `stem` computes, for a kernel that takes its place."""

    @abstractmethod
    def taps_from_stem(self, stem: Tensor, step: int | None = None) -> Taps:
        """Features of every patch before the projection, from the output of `stem`."""

    @abstractmethod
    def feature_map(self, images: Tensor) -> Tensor:
        """The map that Global-Net reads, [B, channels, h, w] of `feature_map_spec`, without z_l."""

    @abstractmethod
    def project_taps(self, taps: Tensor) -> Tensor:
        """z_patch [B, n, gy, gx] of tap features [B, t, gy, gx]."""

    @abstractmethod
    def macs(self, image_size: tuple[int, int], step: int) -> int:
        """Multiply-adds of one image of `image_size` pixels, its border padding included."""

    @property
    def context_project(self) -> nn.Conv2d | None:
        """The projection to z_context; None without context features."""
        return None

    def context(self, taps: Tensor, step: int | None = None) -> Tensor | None:
        """z_context [B, m, gy, gx] of the tap features of a whole grid; None without context features."""
        return None

    def tap_features(self, images: Tensor, step: int | None = None) -> Tensor:
        """Features of every patch before the projection, [B, t, gy, gx]."""
        return self.taps_from_stem(self.stem(images, step), step).features

    def z_local(self, taps: Tensor, step: int | None = None) -> Tensor:
        """z_l [B, n + m, gy, gx] of the tap features of a whole grid."""
        z_patch, z_context = self.project_taps(taps), self.context(taps, step)
        return z_patch if z_context is None else torch.cat([z_patch, z_context], dim=1)

    def encode(self, images: Tensor, step: int | None = None) -> Encoded:
        """Features of every patch, with their context, and the map that Global-Net reads."""
        taps = self.taps_from_stem(self.stem(images, step), step)
        z_context = self.context(taps.features, step)
        return Encoded(self.project_taps(taps.features), z_context, _or_images(taps, images))

    def encode_patch(self, images: Tensor, step: int | None = None) -> Encoded:
        """`encode` without context features: z_patch is what Global-Net is trained to predict."""
        taps = self.taps_from_stem(self.stem(images, step), step)
        return Encoded(self.project_taps(taps.features), None, _or_images(taps, images))

    def forward(self, images: Tensor, step: int | None = None) -> Tensor:
        """z_l [B, n + m, gy, gx] of every patch."""
        return self.encode(images, step).z_local


def _or_images(taps: Taps, images: Tensor) -> Tensor:
    return images if taps.feature_map is None else taps.feature_map
