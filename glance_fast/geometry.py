"""Where the patches lie, and how their scores become a map in the image's own size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def grid_starts(side: int, patch: int, stride: int) -> tuple[int, ...]:
    """First pixels of the patches along one axis: (side - patch) // stride + 1 of them."""
    return tuple(range(0, side - patch + 1, stride))


def map_weights(pixels: int, side: int, patch: int, stride: int) -> NDArray[np.float32]:
    """Bilinear weights [pixels, patches] that bring scores at patch centres to an axis of `pixels` pixels.

    `side` is the axis's length as the networks see it. A map is `rows @ scores @ cols.T`: resizing to the
    image's own size and interpolating between patch centres in one step; beyond the outermost centres it is
    constant.
    """
    count = len(grid_starts(side, patch, stride))
    seen = (np.arange(pixels) + 0.5) * side / pixels
    place = np.clip((seen - patch / 2) / stride, 0, count - 1)
    low = np.minimum(place.astype(np.int64), max(count - 2, 0))
    high = np.minimum(low + 1, count - 1)
    part = place - low
    weights = np.zeros((pixels, count), np.float32)
    rows = np.arange(pixels)
    weights[rows, low] += 1 - part
    weights[rows, high] += part
    return weights


def image_score(grid: NDArray[np.float32], top: int) -> float:
    """The image's score: the mean of its `top` highest locations (of all, where it has fewer)."""
    ordered = np.sort(grid, axis=None)
    return float(ordered[-top:].mean())
