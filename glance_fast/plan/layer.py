"""The layers that a plan can be compiled from: sliding windows along each axis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glance_fast.errors import ConfigError

Ints = NDArray[np.int64]

OUTSIDE = -1


@dataclass(frozen=True)
class Layer:
    """A sliding window: cell y reads the cells `y * stride - pad + t`, t < kernel, of the level below."""

    kind: str
    kernel: int
    stride: int
    pad: int
    channels: int

    def size(self, below: int) -> int:
        """Number of cells along an axis that has `below` cells in the level below."""
        return (below + 2 * self.pad - self.kernel) // self.stride + 1

    def window(self, cells: Ints, below: int) -> Ints:
        """The cells that `cells` read, int64 [n, kernel]; OUTSIDE beyond the border."""
        reads = cells[:, None] * self.stride - self.pad + np.arange(self.kernel)
        return np.where((reads >= 0) & (reads < below), reads, OUTSIDE)


def conv(channels: int, kernel: int = 3) -> Layer:
    """A partial convolution that keeps the size, followed by ReLU."""
    if kernel % 2 == 0 or kernel < 1 or channels < 1:
        raise ConfigError(f"conv needs an odd kernel and channels >= 1, got kernel {kernel}, channels {channels}")
    return Layer("conv", kernel, 1, kernel // 2, channels)


def pool(channels: int, size: int = 2) -> Layer:
    """A max pooling of `size` x `size` cells; a remainder at the far border is dropped."""
    if size < 2 or channels < 1:
        raise ConfigError(f"pool needs a size >= 2 and channels >= 1, got size {size}, channels {channels}")
    return Layer("pool", size, size, 0, channels)
