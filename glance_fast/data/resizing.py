"""Which part of what the networks see an image is resized to, and what lies around it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def letterbox_window(size: tuple[int, int], target: tuple[int, int], resize: str) -> tuple[range, range]:
    """Rows and columns of the networks' `target` that an image of `size` (height, width) is resized to.

    "stretch" fills the target; "letterbox" keeps the aspect and leaves the same margin on both sides. Either is at
    least 2 pixels: PyTorch 2.13 resizes wrongly to one column.
    """
    if resize == "stretch":
        return range(target[0]), range(target[1])
    scale = min(side / own for own, side in zip(size, target, strict=True))
    lengths = (min(side, max(2, round(own * scale))) for own, side in zip(size, target, strict=True))
    rows, cols = (
        range((side - length) // 2, (side - length) // 2 + length) for side, length in zip(target, lengths, strict=True)
    )
    return rows, cols


def reflect_indices(inside: range, side: int) -> NDArray[np.int64]:
    """What stands at each place of an axis: a place of the image, which lies at `inside`, mirrored beyond its ends."""
    place = (np.arange(side) - inside.start) % (2 * len(inside))
    return np.minimum(place, 2 * len(inside) - 1 - place)
