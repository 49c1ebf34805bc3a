"""The random parameters that stains share: sizes, outlines and tones, checked when they are constructed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from glance_fast.errors import ConfigError
from glance_fast.stains.checks import Range, check_range, check_share, check_type
from glance_fast.stains.raster import Box, Floats, Shape, mean_inside, noise

UNITS = ("px", "side")


@dataclass(frozen=True)
class Size:
    """Lengths from low to high, all scales equally likely, in pixels ("px") or shorter image sides ("side").

    Raises ConfigError unless 0.001 ≤ low ≤ high ≤ 4096 px or 2 sides.
    """

    low: float
    high: float
    unit: Literal["px", "side"] = "side"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ConfigError(f"Size.unit must be one of {', '.join(UNITS)}, got {self.unit!r}")
        check_range("Size", (self.low, self.high), (1e-3, 4096 if self.unit == "px" else 2))

    def draw(self, canvas: Floats, rng: np.random.Generator) -> float:
        """A length in pixels, at least 1 and at most twice the canvas' shorter side."""
        side = int(min(canvas.shape[:2]))
        length = log_uniform(rng, (self.low, self.high)) * (side if self.unit == "side" else 1)
        return min(max(length, 1.0), 2.0 * side)


@dataclass(frozen=True)
class Outline:
    """A random region: an ellipse or a box of `size`, turned, stretched, its edge wobbled and softened.

    `wobble` and `softness` are shares of the radius, `boxy` is the probability of a box. Raises ConfigError.
    """

    size: Size = field(default=Size(0.04, 0.5))
    aspect: Range = (1, 3)
    wobble: Range = (0, 0.6)
    softness: Range = (0.05, 0.6)
    boxy: float = 0.15

    def __post_init__(self) -> None:
        check_type("Outline.size", self.size, Size)
        check_range("Outline.aspect", self.aspect, (1, 100))
        check_range("Outline.wobble", self.wobble, (0, 0.9))
        check_range("Outline.softness", self.softness, (0, 1))
        check_share("Outline.boxy", self.boxy)

    def draw(self, canvas: Floats, rng: np.random.Generator) -> Shape:
        """A shape whose centre is in the canvas and whose alpha has a maximum of 1."""
        length = self.size.draw(canvas, rng)
        half = (length / 2, max(length / 2 / uniform(rng, self.aspect), 0.75))
        wobble, boxy = uniform(rng, self.wobble), bool(rng.random() < self.boxy)
        centre = (int(rng.integers(canvas.shape[0])), int(rng.integers(canvas.shape[1])))
        angle = uniform(rng, (0, math.pi))
        box = Box.around(centre, _extent(half, angle, boxy, 1 + wobble), canvas.shape[:2])
        far = _distance(box, centre, half, angle, boxy)
        if wobble > 0:
            bumps = 0.7 * noise(box.size, length / 3, rng) + 0.3 * noise(box.size, length / 9, rng)
            far += np.float32(wobble) * bumps
        # An edge softer than a pixel keeps small shapes from looking sawn.
        soft = min(max(uniform(rng, self.softness), 1 / half[1]), 1.0)
        alpha = np.clip((1 - far) / np.float32(soft), 0, 1)
        alpha *= alpha * (3 - 2 * alpha)
        return Shape(box, alpha / alpha.max())


@dataclass(frozen=True)
class Tone:
    """A random change of brightness or colour; contrasts from low to high, every scale equally likely.

    `darker`, `tint` and `flat` are the probabilities of a darker stain, of a coloured one (never on grey
    images) and of one that hides the texture under it. Raises ConfigError.
    """

    contrast: Range = (0.04, 0.6)
    darker: float = 0.6
    tint: float = 0.3
    flat: float = 0.3

    def __post_init__(self) -> None:
        check_range("Tone.contrast", self.contrast, (1e-3, 1))
        for name in ("darker", "tint", "flat"):
            check_share(f"Tone.{name}", getattr(self, name))

    def shift(self, level: Floats, rng: np.random.Generator) -> Floats:
        """A change [C] for a surface of colour `level` [C]."""
        amount = log_uniform(rng, self.contrast)
        darker = bool(rng.random() < self.darker)
        bright = float(level.mean())
        room = bright if darker else 1 - bright
        # A stain that would run into black or white before half of its contrast goes the other way.
        if room < min(amount / 2, 1 - room):
            darker = not darker
        shift = np.full(level.shape, -amount if darker else amount, np.float32)
        if rng.random() < self.tint and len(shift) == 3:
            shift *= rng.permutation(np.append(rng.uniform(-0.5, 1, 2), 1)).astype(np.float32)
        return shift

    def target(self, canvas: Floats, shape: Shape, rng: np.random.Generator) -> Floats:
        """The colours to blend to in the shape's box: [h, w, C], or [C] for one flat colour."""
        old = shape.box.cut(canvas)
        level = mean_inside(old, shape.alpha)
        shift = self.shift(level, rng)
        return np.clip(level + shift, 0, 1) if rng.random() < self.flat else old + shift


def uniform(rng: np.random.Generator, span: Range) -> float:
    """A number from a range, all equally likely."""
    return float(rng.uniform(*span))


def log_uniform(rng: np.random.Generator, span: Range) -> float:
    """A number from a range of positive numbers, every scale equally likely."""
    return math.exp(rng.uniform(math.log(span[0]), math.log(span[1])))


def _extent(half: Range, angle: float, boxy: bool, grow: float) -> Range:
    """Half height and half width of the upright box round a turned ellipse or box, grown by a factor."""
    c, s = abs(math.cos(angle)), abs(math.sin(angle))
    along, across = half[0] * grow, half[1] * grow
    if boxy:
        return along * s + across * c, along * c + across * s
    return math.hypot(along * s, across * c), math.hypot(along * c, across * s)


def _distance(box: Box, centre: tuple[int, int], half: Range, angle: float, boxy: bool) -> Floats:
    """Distance of a box's pixels from the centre, 1 on the edge of the ellipse or box."""
    y = (np.arange(box.top, box.bottom, dtype=np.float32) - centre[0])[:, None]
    x = (np.arange(box.left, box.right, dtype=np.float32) - centre[1])[None, :]
    c, s = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    along, across = (x * c + y * s) / np.float32(half[0]), (y * c - x * s) / np.float32(half[1])
    return np.maximum(np.abs(along), np.abs(across)) if boxy else np.sqrt(along * along + across * across)
