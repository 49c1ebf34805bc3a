"""Gaussian smoothing of the scores over the grid of locations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def blur_weights(count: int, sigma: float) -> NDArray[np.float32]:
    """Weights [count, count] of a Gaussian of `sigma` locations along an axis, cut off at 4 sigma.

    The first and the last score are repeated beyond the ends. A smoothed map is `rows @ scores @ cols.T`.
    """
    reach = int(4 * sigma + 0.5)
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2) if sigma > 0 else np.ones(1)
    weights = np.zeros((count, count))
    for offset, weight in zip(offsets, kernel / kernel.sum(), strict=True):
        positions = np.arange(count)
        np.add.at(weights, (positions, (positions + offset).clip(0, count - 1)), weight)
    return weights.astype(np.float32)
