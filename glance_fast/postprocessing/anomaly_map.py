"""From the scores of the patches to a map in the image's own size, and to the image's score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glance_fast.plan.patches import Patches


@dataclass(frozen=True)
class LinearTaps:
    """Per pixel of an axis: the patch before it, the patch after it, and the weight of the latter."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    weight: NDArray[np.float32]


def bilinear_indices(pixels: int, patches: Patches, inside: range | None = None) -> LinearTaps:
    """Indices and weights that interpolate between the patches at each of `pixels` pixels of an axis.

    The image fills the pixels `inside` of the networks' axis, all of them if None. Beyond the outermost patches a map
    is constant.
    """
    inside = range(patches.side) if inside is None else inside
    count = len(patches.starts)
    position = inside.start + (np.arange(pixels) + 0.5) * len(inside) / pixels
    index = np.clip((position - patches.first) / patches.stride, 0, count - 1)
    low = np.minimum(index.astype(np.int64), max(count - 2, 0))
    return LinearTaps(low, np.minimum(low + 1, count - 1), (index - low).astype(np.float32))


def map_weights(pixels: int, patches: Patches, inside: range | None = None) -> NDArray[np.float32]:
    """The same as bilinear weights [pixels, patches]: a map is `rows @ scores @ cols.T`.

    It is resized to the image's own size and interpolated between patches in one step.
    """
    taps = bilinear_indices(pixels, patches, inside)
    weights = np.zeros((pixels, len(patches.starts)), np.float32)
    rows = np.arange(pixels)
    weights[rows, taps.low] += 1 - taps.weight
    weights[rows, taps.high] += taps.weight
    return weights


def interpolate(grid: NDArray[np.float32], rows: LinearTaps, cols: LinearTaps) -> NDArray[np.float32]:
    """The map [H, W] of scores [gy, gx], without a matrix product.

    Products start numpy's own threads, which wait actively and take the cores from the networks' next image: with them
    `Engine.score` took 68 ms where the networks took 33 (preset fast in OpenVINO, 2 cores).
    """
    tall = grid[rows.low] * (1 - rows.weight)[:, None] + grid[rows.high] * rows.weight[:, None]
    return np.asarray(tall[:, cols.low] * (1 - cols.weight) + tall[:, cols.high] * cols.weight, np.float32)


def image_score(grid: NDArray[np.float32], top: int) -> float:
    """The image's score: the mean of its `top` highest locations (of all, where it has fewer)."""
    ordered = np.sort(grid, axis=None)
    return float(ordered[-top:].mean())
