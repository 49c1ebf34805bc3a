"""The anomaly map in the image's own size, and the image's score, from the scores of the patches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glance_fast.plan.patches import Patches


@dataclass(frozen=True)
class LinearTaps:
    """Per pixel of an axis: the index of the patch before it, of the patch after it, and the weight of the latter."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    weight: NDArray[np.float32]


def bilinear_indices(pixels: int, patches: Patches, inside: range | None = None) -> LinearTaps:
    """Indices and weights of the linear interpolation between patches, at each of `pixels` pixels of an axis.

    `inside`: the positions of the model's input that the image fills, all if None. Beyond the outermost patches the map
    is constant.
    """
    inside = range(patches.side) if inside is None else inside
    count = len(patches.starts)
    position = inside.start + (np.arange(pixels) + 0.5) * len(inside) / pixels
    index = np.clip((position - patches.first) / patches.stride, 0, count - 1)
    low = np.minimum(index.astype(np.int64), max(count - 2, 0))
    return LinearTaps(low, np.minimum(low + 1, count - 1), (index - low).astype(np.float32))


def map_weights(pixels: int, patches: Patches, inside: range | None = None) -> NDArray[np.float32]:
    """`bilinear_indices` as a matrix of weights, float32 [pixels, patches]: a map is `rows @ scores @ cols.T`.

    One step interpolates between patches and resizes to the image's own size.
    """
    taps = bilinear_indices(pixels, patches, inside)
    weights = np.zeros((pixels, len(patches.starts)), np.float32)
    rows = np.arange(pixels)
    weights[rows, taps.low] += 1 - taps.weight
    weights[rows, taps.high] += taps.weight
    return weights


def interpolate(grid: NDArray[np.float32], rows: LinearTaps, cols: LinearTaps) -> NDArray[np.float32]:
    """The map, float32 [H, W], of scores [gy, gx], without a matrix product.

    A product would start numpy's threads, which wait actively and take the cores from the networks' next image: with a
    product `Engine.score` took 68 ms, of which the networks took 33 (preset fast in OpenVINO, 2 cores).
    """
    stretched = grid[rows.low] * (1 - rows.weight)[:, None] + grid[rows.high] * rows.weight[:, None]
    return np.asarray(stretched[:, cols.low] * (1 - cols.weight) + stretched[:, cols.high] * cols.weight, np.float32)


def image_score(grid: NDArray[np.float32], top: int) -> float:
    """The image's score: the mean of its `top` highest scores (of all, if it has fewer locations)."""
    ordered = np.sort(grid, axis=None)
    return float(ordered[-top:].mean())
