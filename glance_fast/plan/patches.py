"""Where patches and feature-map cells lie along one axis of an image, in pixels."""

from __future__ import annotations

from dataclasses import dataclass


def grid_starts(side: int, patch: int, stride: int, overhang: int = 0) -> tuple[int, ...]:
    """First pixels of the patches along one axis, which may reach `overhang` pixels beyond both borders.

    There are (side + 2 * overhang - patch) // stride + 1 of them, the first at -overhang.
    """
    return tuple(range(-overhang, side + overhang - patch + 1, stride))


@dataclass(frozen=True)
class Patches:
    """The patches along one axis of an image of `side` pixels.

    What is said of a patch is said of its middle, less `lean`: a network may see the pixels before the middle better
    than those behind it.
    """

    side: int
    patch: int
    stride: int
    overhang: int = 0
    lean: int = 0

    @property
    def starts(self) -> tuple[int, ...]:
        """Their first pixels."""
        return grid_starts(self.side, self.patch, self.stride, self.overhang)

    @property
    def first(self) -> float:
        """Where the first of them lies."""
        return self.patch / 2 - self.overhang - self.lean


@dataclass(frozen=True)
class FeatureMapSpec:
    """Geometry of the map that Global-Net reads: cell c sees `kernel` pixels from `stride * c` on, along each axis.

    Pixels are counted from the first one of the padded image. The image itself is `FeatureMapSpec(1, 1, 3)`.
    """

    kernel: int
    stride: int
    channels: int

    def cells(self, side: int, overhang: int) -> range:
        """The cells whose centre pixel lies in the image; the rest of the map is not read."""
        centre = (self.kernel - 1) // 2
        first = -(-max(overhang - centre, 0) // self.stride)
        last = min(overhang + side - 1 - centre, side + 2 * overhang - self.kernel) // self.stride
        return range(first, last + 1)

    def hole(self, start: int, patch: int) -> range:
        """The cells that see a pixel of the patch that begins at `start`, a pixel of the padded image."""
        return range(-(-(start - self.kernel + 1) // self.stride), (start + patch - 1) // self.stride + 1)


IMAGE = FeatureMapSpec(kernel=1, stride=1, channels=3)
