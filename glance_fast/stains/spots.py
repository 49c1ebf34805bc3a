"""Stains that cover a spot: blobs of every size, small pits with a bright rim, soft shades."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from glance_fast.stains.base import Edit, Mark, blend
from glance_fast.stains.checks import Range, check_range, check_share, check_type
from glance_fast.stains.parameters import Outline, Size, Tone, uniform
from glance_fast.stains.raster import Box, Floats, Shape, mean_inside, noise


@dataclass(frozen=True)
class Blob(Mark):
    """A darker, brighter or tinted spot; with probability `texture` its strength varies across it.

    Raises ConfigError for a probability outside 0..1.
    """

    outline: Outline = field(default=Outline())
    tone: Tone = field(default=Tone())
    texture: float = 0.4

    def __post_init__(self) -> None:
        check_type("Blob.outline", self.outline, Outline)
        check_type("Blob.tone", self.tone, Tone)
        check_share("Blob.texture", self.texture)

    def draw(self, canvas: Floats, rng: np.random.Generator) -> Edit:
        shape = self.outline.draw(canvas, rng)
        target = self.tone.target(canvas, shape, rng)
        if rng.random() < self.texture:
            cell = rng.uniform(1, max(2, min(shape.box.size) / 3))
            uneven = np.float32(0.65) + np.float32(0.35) * noise(shape.box.size, cell, rng)
            shape = Shape(shape.box, shape.alpha * uneven)
        return blend(canvas, shape, target)


@dataclass(frozen=True)
class Pit(Mark):
    """A small dark hole whose rim catches light on one side; `rim` is the rim's brightness above the surface.

    Raises ConfigError unless 0 ≤ rim ≤ 1.
    """

    size: Size = field(default=Size(3, 8, "px"))
    tone: Tone = field(default=Tone(contrast=(0.15, 0.7), darker=0.95, tint=0, flat=0.5))
    rim: Range = (0, 0.3)

    def __post_init__(self) -> None:
        check_type("Pit.size", self.size, Size)
        check_type("Pit.tone", self.tone, Tone)
        check_range("Pit.rim", self.rim, (0, 1))

    def draw(self, canvas: Floats, rng: np.random.Generator) -> Edit:
        radius = self.size.draw(canvas, rng) / 2
        centre = (int(rng.integers(canvas.shape[0])), int(rng.integers(canvas.shape[1])))
        box = Box.around(centre, (radius + 2, radius + 2), canvas.shape[:2])
        y = np.arange(box.top, box.bottom, dtype=np.float32)[:, None] - centre[0]
        x = np.arange(box.left, box.right, dtype=np.float32)[None, :] - centre[1]
        squeeze = np.float32(rng.uniform(1, 1.4))
        far = np.sqrt((y * squeeze) ** 2 + x**2 if rng.random() < 0.5 else y**2 + (x * squeeze) ** 2)
        hole = Shape(box, np.clip(np.float32(radius + 0.5) - far, 0, 1))
        edit = blend(canvas, hole, self.tone.target(canvas, hole, rng))
        # A ring two pixels wide round the hole, fading to nothing on the side away from the light.
        light = rng.uniform(0, 2 * math.pi)
        facing = (y * np.float32(math.sin(light)) + x * np.float32(math.cos(light))) / np.maximum(far, 1)
        ring = np.clip(1 - np.abs(far - np.float32(radius + 1)), 0, 1) * (0.5 + 0.5 * facing)
        lit = edit.region + np.float32(uniform(rng, self.rim)) * (ring * (1 - hole.alpha))[..., None]
        return Edit(hole, np.clip(lit, 0, 1))


@dataclass(frozen=True)
class Shade(Mark):
    """A large, soft, faint change of brightness, as on an uneven surface: it scales what is there."""

    outline: Outline = field(default=Outline(Size(0.25, 1.2), (1, 2.5), (0, 0.4), (0.7, 1), boxy=0))
    tone: Tone = field(default=Tone(contrast=(0.04, 0.2), darker=0.5, tint=0.1, flat=0))

    def __post_init__(self) -> None:
        check_type("Shade.outline", self.outline, Outline)
        check_type("Shade.tone", self.tone, Tone)

    def draw(self, canvas: Floats, rng: np.random.Generator) -> Edit:
        shape = self.outline.draw(canvas, rng)
        old = shape.box.cut(canvas)
        level = mean_inside(old, shape.alpha)
        # Shifts the mean by the tone's contrast; a near-black surface would need an absurd gain.
        gain = self.tone.shift(level, rng) / np.maximum(level, np.float32(0.05))
        return blend(canvas, shape, old + old * gain.astype(np.float32))
