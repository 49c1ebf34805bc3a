"""Random images, patches, holes and stains of a training step, drawn from (seed, stage, step, rank) alone.

No random state outlives a step, so a resumed run draws the same as one that was not interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glance_fast.stains import Stain

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

# Random streams that belong to no stage: they take the place of a stage's index, and are above all of those.
TEACHER_SCALE_STREAM, FEATURE_SCALE_STREAM = 0x5CA1E, 0xF01D
CALIBRATION_SPLIT_STREAM = 0xCA11


def step_rng(seed: int, stage: int, step: int, rank: int) -> np.random.Generator:
    """The random source of one step of one stage on one device."""
    return np.random.default_rng([seed, stage, step, rank])


def draw_images(photos: NDArray[np.uint8], count: int, jitter: float, rng: np.random.Generator) -> Floats:
    """`count` random images, float32 [count, H, W, 3] in 0..1, each with random brightness and contrast."""
    images = photos[rng.integers(len(photos), size=count)].astype(np.float32) / 255
    gain, shift = rng.uniform(-jitter, jitter, (2, count, 1, 1, 1)).astype(np.float32)
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    jittered: Floats = np.clip((images - mean) * (1 + gain) + mean + shift, 0, 1)
    return jittered


def stain_images(images: Floats, stain: Stain, rng: np.random.Generator) -> tuple[Floats, NDArray[np.bool_]]:
    """Each image with a random stain, and the pixels that it changed: [B, H, W, 3], bool [B, H, W]."""
    stained = [stain(image, rng) for image in images]
    return np.stack([s.image for s in stained]), np.stack([s.mask for s in stained])


def draw_corners(size: tuple[int, int], patch: int, count: int, rng: np.random.Generator) -> Ints:
    """First pixels (y, x) of `count` random patches, int64 [count, 2]."""
    return rng.integers(0, np.array(size) - patch + 1, size=(count, 2))


def corners_near(mask: NDArray[np.bool_], patch: int, count: int, rng: np.random.Generator) -> Ints:
    """First pixels of `count` patches, each of which contains a random pixel of `mask` (which must not be empty)."""
    pixels = np.argwhere(mask)
    chosen = pixels[rng.integers(len(pixels), size=count)] - rng.integers(0, patch, size=(count, 2))
    corners: Ints = np.clip(chosen, 0, np.array(mask.shape) - patch)
    return corners


def crop_patches(image: Floats, corners: Ints, patch: int) -> Floats:
    """The patches of one image at `corners`, [n, P, P, C] of [H, W, C]."""
    return np.stack([image[y : y + patch, x : x + patch] for y, x in corners])


def stained_pixels(mask: NDArray[np.bool_], corners: Ints, patch: int) -> Ints:
    """Number of pixels of `mask` in each patch, int64 [n]."""
    sums = np.pad(mask, ((1, 0), (1, 0))).astype(np.int64).cumsum(0).cumsum(1)
    (top, left), (bottom, right) = corners.T, corners.T + patch
    counts: Ints = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return counts


def changed_pixels(mask: NDArray[np.bool_], rows: Ints, cols: Ints) -> Ints:
    """Number of pixels of `mask` in each of `rows` x `cols`, spans [n, 2] and [m, 2] inside it: int64 [n * m]."""
    sums = np.pad(mask, ((1, 0), (1, 0))).astype(np.int64).cumsum(0).cumsum(1)
    bands = sums[rows[:, 1]] - sums[rows[:, 0]]
    counts: Ints = (bands[:, cols[:, 1]] - bands[:, cols[:, 0]]).ravel()
    return counts


@dataclass(frozen=True)
class GridSubset:
    """Indices of rows and columns of a grid of `width` columns; a step's locations are their outer product.

    An outer product is separable, so its plan is small.
    """

    rows: tuple[int, ...]
    cols: tuple[int, ...]
    width: int

    @property
    def indices(self) -> Ints:
        """Indices of the locations in the grid, row by row: int64 [rows * cols]."""
        indices: Ints = np.add.outer(np.array(self.rows) * self.width, np.array(self.cols)).ravel()
        return indices


def draw_grid_subset(grid: tuple[int, int], count: int, rng: np.random.Generator) -> GridSubset:
    """`count` random rows and as many columns of a grid, each once; all of them where it has no more."""
    rows, cols = (np.sort(rng.permutation(side)[:count]) for side in grid)
    return GridSubset(tuple(int(y) for y in rows), tuple(int(x) for x in cols), grid[1])
