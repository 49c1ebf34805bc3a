"""Resizing to the model's size: the window of the model's input that an image fills, and the reflected rest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def letterbox_window(size: tuple[int, int], target: tuple[int, int], resize: str) -> tuple[range, range]:
    """Rows and columns of the `target` (height, width) that an image of `size` (height, width) is resized to.

    "stretch" fills the target; "letterbox" keeps the aspect ratio and leaves equal margins on both sides. A window is
    at least 2 pixels wide and high: PyTorch 2.13 resizes wrongly to one column.
    """
    if resize == "stretch":
        return range(target[0]), range(target[1])
    scale = min(side / length for length, side in zip(size, target, strict=True))
    lengths = (min(side, max(2, round(length * scale))) for length, side in zip(size, target, strict=True))
    rows, cols = (_centred(length, side) for length, side in zip(lengths, target, strict=True))
    return rows, cols


def _centred(length: int, side: int) -> range:
    start = (side - length) // 2
    return range(start, start + length)


def reflect_indices(inside: range, side: int) -> NDArray[np.int64]:
    """Source index of each of `side` positions, int64 [side].

    Positions `inside` show the image itself; those outside reflect it (numpy's pad mode "symmetric").
    """
    source = (np.arange(side) - inside.start) % (2 * len(inside))
    return np.minimum(source, 2 * len(inside) - 1 - source)
