"""Fast drawing inside a box: smooth noise, soft strokes, resampling and averages, all in float32 numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class Box:
    """Pixels top ≤ y < bottom, left ≤ x < right of an image."""

    top: int
    left: int
    bottom: int
    right: int

    @staticmethod
    def around(centre: tuple[float, float], half: tuple[float, float], size: tuple[int, int]) -> Box:
        """The box of centre ± half and a pixel more, cut to an image of (height, width)."""
        low = [max(0, int(c - h) - 1) for c, h in zip(centre, half, strict=True)]
        high = [min(s, int(c + h) + 2) for c, h, s in zip(centre, half, size, strict=True)]
        return Box(low[0], low[1], high[0], high[1])

    @property
    def size(self) -> tuple[int, int]:
        return self.bottom - self.top, self.right - self.left

    def cut(self, image: NDArray[Scalar]) -> NDArray[Scalar]:
        """The view of an image [H, W, ...] in this box."""
        return image[self.top : self.bottom, self.left : self.right]

    def wider(self, margin: int, size: tuple[int, int]) -> Box:
        """This box with a margin on every side, cut to an image of (height, width)."""
        top, left = max(0, self.top - margin), max(0, self.left - margin)
        return Box(top, left, min(size[0], self.bottom + margin), min(size[1], self.right + margin))


@dataclass(frozen=True)
class Shape:
    """Where and how much to paint: alpha float32 [h, w] in 0..1 of a box's pixels, not all 0."""

    box: Box
    alpha: Floats


@dataclass(frozen=True)
class Polyline:
    """A line as close points [n, 2] (y, x), half-widths [n], both in pixels, and strengths [n] in 0..1."""

    at: Floats
    radius: Floats
    strength: Floats

    @staticmethod
    def joined(lines: list[Polyline]) -> Polyline:
        """All lines, concatenated."""
        fields = ("at", "radius", "strength")
        return Polyline(*(np.concatenate([getattr(line, name) for line in lines]) for name in fields))


def noise(size: tuple[int, int], cell: float, rng: np.random.Generator) -> Floats:
    """Smooth noise [h, w] in -1..1 whose bumps are about `cell` pixels wide."""
    knots = [int(np.ceil(side / max(cell, 1))) + 1 for side in size]
    grid = rng.random(knots, np.float32) * 2 - 1
    if cell <= 1:
        return grid[: size[0], : size[1]]
    enlarged = Image.fromarray(grid).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(enlarged, np.float32), -1, 1)


def stroke(line: Polyline, size: tuple[int, int]) -> Shape:
    """The soft-edged line that a round pen leaves; at least one point must be inside an image of `size`."""
    reach = int(np.ceil(line.radius.max() + 0.5))
    near = np.all((line.at > -reach) & (line.at < np.array(size) + reach - 1), axis=1)
    at = line.at[near]
    cell = np.rint(at).astype(np.int64)
    first, last = cell.min(0) - reach, cell.max(0) + reach + 1
    pens = np.arange(-reach, reach + 1)
    # How every point inks the k x k pixels round it, and those pixels' numbers in the padded box: [n, k, k].
    dy, dx = ((cell[:, i, None] + pens - at[:, i, None]).astype(np.float32) ** 2 for i in (0, 1))
    gap = np.sqrt(dy[:, :, None] + dx[:, None, :])
    ink = np.clip(line.radius[near, None, None] + np.float32(0.5) - gap, 0, 1)
    ink *= line.strength[near, None, None]
    y, x = (cell[:, i, None] + pens - first[i] for i in (0, 1))
    padded = np.zeros(last - first, np.float32)
    np.maximum.at(padded.reshape(-1), (y[:, :, None] * padded.shape[1] + x[:, None, :]).ravel(), ink.ravel())
    box = Box(*(int(v) for v in (*np.maximum(first, 0), *np.minimum(last, size))))
    skip_y, skip_x = box.top - int(first[0]), box.left - int(first[1])
    return Shape(box, padded[skip_y : skip_y + box.size[0], skip_x : skip_x + box.size[1]])


def sample(image: Floats, y: Floats, x: Floats) -> Floats:
    """Bilinear values [h, w, C] of an image [H, W, C] at positions y, x [h, w]; its border mirrors it."""
    height, width, channels = image.shape
    (y0, y1, fy), (x0, x1, fx) = _neighbours(y, height), _neighbours(x, width)
    flat = image.reshape(-1, channels)
    upper = _mix(flat.take(y0 * width + x0, 0), flat.take(y0 * width + x1, 0), fx)
    lower = _mix(flat.take(y1 * width + x0, 0), flat.take(y1 * width + x1, 0), fx)
    return _mix(upper, lower, fy)


def mean_inside(old: Floats, alpha: Floats) -> Floats:
    """Mean colour [C] of old [h, w, C] where alpha reaches half of its peak."""
    mean: Floats = old[alpha >= 0.5 * alpha.max()].mean(0)
    return mean


def _neighbours(position: Floats, side: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    # Folding by the period of the mirrored image, then by its middle, keeps every position in 0..side-1.
    period = np.float32(2 * (side - 1))
    folded = np.mod(position, period)
    folded = np.minimum(folded, period - folded)
    low = np.minimum(folded.astype(np.int64), side - 2)
    return low, low + 1, (folded - low).astype(np.float32)[..., None]


def _mix(a: Floats, b: Floats, part: Floats) -> Floats:
    return a + (b - a) * part
