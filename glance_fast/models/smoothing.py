"""The Gaussian that smooths the scores of neighbouring locations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


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
