"""What a training step sees: random images, patches, holes and stains, drawn from (seed, stage, step, rank) alone.

No random state outlives a step, so a run that goes on after a kill draws what it would have drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glance_fast.stains import Stain

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def step_rng(seed: int, stage: int, step: int, rank: int) -> np.random.Generator:
    """The random source of one step of one stage on one device."""
    return np.random.default_rng([seed, stage, step, rank])


def draw_images(photos: NDArray[np.uint8], count: int, jitter: float, rng: np.random.Generator) -> Floats:
    """`count` random images, float32 [count, H, W, 3] in 0..1, each with its own brightness and contrast."""
    images = photos[rng.integers(len(photos), size=count)].astype(np.float32) / 255
    gain, shift = rng.uniform(-jitter, jitter, (2, count, 1, 1, 1)).astype(np.float32)
    middle = images.mean(axis=(1, 2, 3), keepdims=True)
    jittered: Floats = np.clip((images - middle) * (1 + gain) + middle + shift, 0, 1)
    return jittered


def stain_images(images: Floats, stain: Stain, rng: np.random.Generator) -> tuple[Floats, NDArray[np.bool_]]:
    """Each image with a stain of its own, and the pixels that it changed: [B, H, W, 3], bool [B, H, W]."""
    stained = [stain(image, rng) for image in images]
    return np.stack([s.image for s in stained]), np.stack([s.mask for s in stained])


def draw_corners(size: tuple[int, int], patch: int, count: int, rng: np.random.Generator) -> Ints:
    """First pixels (y, x) of `count` random patches, int64 [count, 2]."""
    return rng.integers(0, np.array(size) - patch + 1, size=(count, 2))


def corners_near(mask: NDArray[np.bool_], patch: int, count: int, rng: np.random.Generator) -> Ints:
    """First pixels of `count` patches that each hold a random pixel of `mask` (which must not be empty)."""
    pixels = np.argwhere(mask)
    chosen = pixels[rng.integers(len(pixels), size=count)] - rng.integers(0, patch, size=(count, 2))
    corners: Ints = np.clip(chosen, 0, np.array(mask.shape) - patch)
    return corners


def cut(image: Floats, corners: Ints, patch: int) -> Floats:
    """The patches of one image at `corners`, [n, P, P, C] of [H, W, C]."""
    return np.stack([image[y : y + patch, x : x + patch] for y, x in corners])


def stained_pixels(mask: NDArray[np.bool_], corners: Ints, patch: int) -> Ints:
    """How many pixels of `mask` each patch holds, int64 [n]."""
    sums = np.pad(mask, ((1, 0), (1, 0))).astype(np.int64).cumsum(0).cumsum(1)
    (top, left), (bottom, right) = corners.T, corners.T + patch
    counts: Ints = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return counts


def changed_pixels(mask: NDArray[np.bool_], rows: Ints, cols: Ints) -> Ints:
    """How many pixels of `mask` lie in each of `rows` x `cols`, spans [n, 2] and [m, 2] inside it: int64 [n * m]."""
    sums = np.pad(mask, ((1, 0), (1, 0))).astype(np.int64).cumsum(0).cumsum(1)
    bands = sums[rows[:, 1]] - sums[rows[:, 0]]
    counts: Ints = (bands[:, cols[:, 1]] - bands[:, cols[:, 0]]).ravel()
    return counts


@dataclass(frozen=True)
class Places:
    """Rows and columns of a grid, by number, whose outer product is a step's locations: separable, a small plan."""

    rows: tuple[int, ...]
    cols: tuple[int, ...]
    across: int

    @property
    def numbers(self) -> Ints:
        """The locations by number, row by row, in a grid `across` wide: int64 [rows * cols]."""
        numbers: Ints = np.add.outer(np.array(self.rows) * self.across, np.array(self.cols)).ravel()
        return numbers


def draw_places(grid: tuple[int, int], count: int, rng: np.random.Generator) -> Places:
    """`count` random rows and as many columns of a grid, each once; all of them where it has no more."""
    rows, cols = (np.sort(rng.permutation(side)[:count]) for side in grid)
    return Places(tuple(int(y) for y in rows), tuple(int(x) for x in cols), grid[1])
