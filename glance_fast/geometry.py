"""Where the image and the patches lie in what the networks see, and how scores become a map in the image's own size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def frame(size: tuple[int, int], target: tuple[int, int], resize: str) -> tuple[range, range]:
    """Rows and columns of the networks' `target` that an image of `size` (height, width) is resized to.

    "stretch" fills the target; "letterbox" keeps the aspect and leaves the same margin on both sides. Either is at
    least 2 pixels: PyTorch 2.13 resizes wrongly to one column.
    """
    if resize == "stretch":
        return range(target[0]), range(target[1])
    scale = min(side / own for own, side in zip(size, target, strict=True))
    lengths = (min(side, max(2, round(own * scale))) for own, side in zip(size, target, strict=True))
    rows, cols = (
        range((side - length) // 2, (side - length) // 2 + length)
        for side, length in zip(target, lengths, strict=True)
    )
    return rows, cols


def mirrored(inside: range, side: int) -> NDArray[np.int64]:
    """What stands at each place of an axis: a place of the image, which lies at `inside`, mirrored beyond its ends."""
    place = (np.arange(side) - inside.start) % (2 * len(inside))
    return np.minimum(place, 2 * len(inside) - 1 - place)


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
class Reading:
    """What Global-Net reads: a map whose cell c sees `kernel` pixels from `stride * c` on, along each axis.

    Pixels are those of the image with its overhang. The image itself is `Reading(1, 1, 3)`.
    """

    kernel: int
    stride: int
    channels: int

    def cells(self, side: int, overhang: int) -> range:
        """The cells whose middle lies in the image; the rest of the map is not read."""
        middle = (self.kernel - 1) // 2
        first = -(-max(overhang - middle, 0) // self.stride)
        last = min(overhang + side - 1 - middle, side + 2 * overhang - self.kernel) // self.stride
        return range(first, last + 1)

    def hole(self, start: int, patch: int) -> range:
        """The cells that see a pixel of the patch at `start`, counted from the overhang's first pixel."""
        return range(-(-(start - self.kernel + 1) // self.stride), (start + patch - 1) // self.stride + 1)


IMAGE = Reading(kernel=1, stride=1, channels=3)


@dataclass(frozen=True)
class Between:
    """For each pixel of an axis the patch before it, the one after it, and how far it lies towards that."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    part: NDArray[np.float32]


def between(pixels: int, patches: Patches, inside: range | None = None) -> Between:
    """Where the patches lie round each of `pixels` pixels of an axis.

    The networks see the pixels at `inside` of the axis' `side`, everywhere if None. Beyond the outermost patches a map
    is constant.
    """
    inside = range(patches.side) if inside is None else inside
    count = len(patches.starts)
    seen = inside.start + (np.arange(pixels) + 0.5) * len(inside) / pixels
    place = np.clip((seen - patches.first) / patches.stride, 0, count - 1)
    low = np.minimum(place.astype(np.int64), max(count - 2, 0))
    return Between(low, np.minimum(low + 1, count - 1), (place - low).astype(np.float32))


def map_weights(pixels: int, patches: Patches, inside: range | None = None) -> NDArray[np.float32]:
    """The same as bilinear weights [pixels, patches]: a map is `rows @ scores @ cols.T`.

    It is resized to the image's own size and interpolated between patches in one step.
    """
    lies = between(pixels, patches, inside)
    weights = np.zeros((pixels, len(patches.starts)), np.float32)
    rows = np.arange(pixels)
    weights[rows, lies.low] += 1 - lies.part
    weights[rows, lies.high] += lies.part
    return weights


def interpolate(grid: NDArray[np.float32], rows: Between, cols: Between) -> NDArray[np.float32]:
    """The map [H, W] of scores [gy, gx], without a matrix product.

    Products start numpy's own threads, which wait actively and take the cores from the networks' next image: with them
    `Engine.score` took 68 ms where the networks took 33 (preset fast in OpenVINO, 2 cores).
    """
    tall = grid[rows.low] * (1 - rows.part)[:, None] + grid[rows.high] * rows.part[:, None]
    return np.asarray(tall[:, cols.low] * (1 - cols.part) + tall[:, cols.high] * cols.part, np.float32)


def blur_weights(count: int, sigma: float) -> NDArray[np.float32]:
    """Weights [count, count] that smooth scores along an axis: a Gaussian of `sigma` locations, cut off at 4 sigma.

    Beyond the ends an axis goes on as it ends. A smoothed map is `rows @ scores @ cols.T`.
    """
    reach = int(4 * sigma + 0.5)
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2) if sigma > 0 else np.ones(1)
    weights = np.zeros((count, count))
    for offset, weight in zip(offsets, kernel / kernel.sum(), strict=True):
        places = np.arange(count)
        np.add.at(weights, (places, (places + offset).clip(0, count - 1)), weight)
    return weights.astype(np.float32)


def image_score(grid: NDArray[np.float32], top: int) -> float:
    """The image's score: the mean of its `top` highest locations (of all, where it has fewer)."""
    ordered = np.sort(grid, axis=None)
    return float(ordered[-top:].mean())
