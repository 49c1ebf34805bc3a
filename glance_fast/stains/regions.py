"""Stains that replace a region: by another part of the image, by a foreign texture, or by a blurred copy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy.ndimage import uniform_filter

from glance_fast.errors import ConfigError
from glance_fast.stains.base import Edit, Mark, blend, image_fault
from glance_fast.stains.checks import Range, check_range, check_share, check_type
from glance_fast.stains.parameters import Outline, Size, Tone, log_uniform, uniform
from glance_fast.stains.raster import Box, Floats, Shape, mean_inside, noise, sample

Texture = Literal["noise", "stripes", "self"]
TEXTURES: tuple[Texture, ...] = ("noise", "stripes", "self")


@dataclass(frozen=True)
class _View:
    """How a region samples a source image: rotated by `angle` (radians), scaled, mirrored."""

    angle: float
    scale: float = 1
    mirrored: bool = False

    def of(self, source: Floats, box: Box, centre: Floats) -> Floats:
        """Pixels of the box, sampled from `source` [H, W, C] around `centre` (y, x): [h, w, C]."""
        height, width = box.size
        y = (np.arange(height, dtype=np.float32) - height // 2)[:, None] * np.float32(self.scale)
        x = (np.arange(width, dtype=np.float32) - width // 2)[None, :] * np.float32(self.scale)
        # Rounded so that quarter turns sample whole pixels: a copy is not blurred.
        c, s = (np.float32(round(v, 12)) for v in (math.cos(self.angle), math.sin(self.angle)))
        x = -x if self.mirrored else x
        return sample(source, centre[0] + y * c - x * s, centre[1] + y * s + x * c)


@dataclass(frozen=True)
class RegionShift(Mark):
    """A region shows another part of the same image: shifted, and perhaps mirrored or rotated.

    `quarter` and `turned` are the probabilities of quarter turns and of any angle, `mirrored` of a mirror
    image. Raises ConfigError unless all are probabilities with quarter + turned ≤ 1.
    """

    outline: Outline = field(default=Outline(Size(0.06, 0.5), (1, 2.5), (0, 0.5), (0.02, 0.3), boxy=0.4))
    quarter: float = 0.3
    turned: float = 0.3
    mirrored: float = 0.3

    def __post_init__(self) -> None:
        check_type("RegionShift.outline", self.outline, Outline)
        for name in ("quarter", "turned", "mirrored"):
            check_share(f"RegionShift.{name}", getattr(self, name))
        if self.quarter + self.turned > 1:
            total = f"{self.quarter} + {self.turned}"
            raise ConfigError(f"RegionShift.quarter + turned must be at most 1, got {total}; lower one")

    def draw(self, canvas: Floats, rng: np.random.Generator) -> Edit:
        shape = self.outline.draw(canvas, rng)
        kind = rng.random()
        angle = 0.0
        if kind < self.quarter:
            angle = math.pi / 2 * int(rng.integers(1, 4))
        elif kind < self.quarter + self.turned:
            angle = rng.uniform(0, 2 * math.pi)
        view = _View(angle, mirrored=bool(rng.random() < self.mirrored))
        centre = rng.integers(canvas.shape[:2]).astype(np.float32)
        return blend(canvas, shape, view.of(canvas, shape.box, centre))


@dataclass(frozen=True)
class PastedTexture(Mark):
    """A region covered, by `opacity`, with noise, stripes, this image at another scale, or another image.

    `others` are float32 [H, W, 3] images in 0..1 of at least 8x8 pixels; with them, half of the textures are
    theirs. `tone` sets how far the mean moves and how strong a procedural texture is. Raises ConfigError.
    """

    outline: Outline = field(default=Outline(Size(0.06, 0.5), (1, 3), (0, 0.6), (0.05, 0.6), boxy=0.25))
    tone: Tone = field(default=Tone(contrast=(0.03, 0.35), darker=0.5, tint=0.3, flat=0))
    opacity: Range = (0.3, 1)
    textures: tuple[Texture, ...] = TEXTURES
    others: tuple[Floats, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        check_type("PastedTexture.outline", self.outline, Outline)
        check_type("PastedTexture.tone", self.tone, Tone)
        check_range("PastedTexture.opacity", self.opacity, (0.01, 1))
        check_type("PastedTexture.textures", self.textures, tuple)
        check_type("PastedTexture.others", self.others, tuple)
        if not self.textures or not all(texture in TEXTURES for texture in self.textures):
            legal = ", ".join(TEXTURES)
            raise ConfigError(f"PastedTexture.textures must be some of {legal}, got {self.textures!r}")
        for number, other in enumerate(self.others):
            if fault := image_fault(other):
                raise ConfigError(
                    f"PastedTexture.others[{number}] must be a float32 image [H, W, 3] in 0..1, 8x8 pixels "
                    f"or more, got {fault}; divide uint8 pixels by 255"
                )

    def draw(self, canvas: Floats, rng: np.random.Generator) -> Edit:
        outline = self.outline.draw(canvas, rng)
        shape = Shape(outline.box, outline.alpha * np.float32(uniform(rng, self.opacity)))
        if self.others and rng.random() < 0.5:
            other = self.others[rng.integers(len(self.others))]
            source = other if canvas.shape[2] == 3 else other.mean(2, keepdims=True)
            return blend(canvas, shape, _rescaled(source, shape.box, rng))
        return blend(canvas, shape, self._texture(canvas, shape, rng))

    def _texture(self, canvas: Floats, shape: Shape, rng: np.random.Generator) -> Floats:
        """A texture [h, w, C], procedural or from the canvas, whose mean differs from the surface's by the tone."""
        kind = self.textures[rng.integers(len(self.textures))]
        level = mean_inside(shape.box.cut(canvas), shape.alpha)
        shift = self.tone.shift(level, rng)
        if kind == "self":
            copy = _rescaled(canvas, shape.box, rng)
            mean = copy.mean((0, 1))
            rescaled: Floats = mean + (copy - mean) * np.float32(rng.uniform(0.5, 1.6)) + shift
            return rescaled
        strength = np.float32(2 * log_uniform(rng, self.tone.contrast))
        return level + shift + strength * _PATTERNS[kind](shape.box.size, rng)[..., None]


@dataclass(frozen=True)
class Blur(Mark):
    """A region that lost sharpness or, with probability `sharpen`, gained it; `radius` of the blur in pixels.

    Raises ConfigError unless 1 ≤ radius ≤ 64 and 0 < gain ≤ 10.
    """

    outline: Outline = field(default=Outline(Size(0.1, 0.6), (1, 3), (0, 0.5), (0.1, 0.8), boxy=0.1))
    radius: Range = (1, 5)
    sharpen: float = 0.3
    gain: Range = (1, 3)

    def __post_init__(self) -> None:
        check_type("Blur.outline", self.outline, Outline)
        check_range("Blur.radius", self.radius, (1, 64))
        check_share("Blur.sharpen", self.sharpen)
        check_range("Blur.gain", self.gain, (0.01, 10))

    def draw(self, canvas: Floats, rng: np.random.Generator) -> Edit:
        shape = self.outline.draw(canvas, rng)
        old, soft = shape.box.cut(canvas), _blurred(canvas, shape.box, round(log_uniform(rng, self.radius)))
        if rng.random() < self.sharpen:
            return blend(canvas, shape, old + np.float32(uniform(rng, self.gain)) * (old - soft))
        return blend(canvas, shape, soft)


def _rescaled(source: Floats, box: Box, rng: np.random.Generator) -> Floats:
    """A random part of `source` at a random angle, clearly enlarged or clearly reduced."""
    scale = rng.uniform(0.35, 0.7) if rng.random() < 0.5 else rng.uniform(1.4, 2.2)
    centre = rng.integers(source.shape[:2]).astype(np.float32)
    return _View(rng.uniform(0, 2 * math.pi), scale).of(source, box, centre)


def _noise_pattern(size: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Noise [h, w] in -1..1 of a random grain."""
    return noise(size, log_uniform(rng, (1, max(2, min(size) / 3))), rng)


def _stripe_pattern(size: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Stripes [h, w] in -1..1, a little bent, soft or hard."""
    angle, pitch = rng.uniform(0, math.pi), log_uniform(rng, (3, max(4, min(size) / 2)))
    y = np.arange(size[0], dtype=np.float32)[:, None] * np.float32(math.sin(angle))
    x = np.arange(size[1], dtype=np.float32)[None, :] * np.float32(math.cos(angle))
    bent = noise(size, max(8, min(size) / 2), rng) * np.float32(rng.uniform(0, 0.3) * pitch)
    wave = np.sin((x + y + bent) * np.float32(2 * math.pi / pitch) + np.float32(rng.uniform(0, 2 * math.pi)))
    stripes: Floats = np.clip(wave * np.float32(rng.uniform(1, 4)), -1, 1)
    return stripes


_PATTERNS: dict[str, Callable[[tuple[int, int], np.random.Generator], Floats]] = {
    "noise": _noise_pattern,
    "stripes": _stripe_pattern,
}


def _blurred(canvas: Floats, box: Box, radius: int) -> Floats:
    """The box after two square means, close to a Gaussian and as fast for any radius: [h, w, C]."""
    # Read with a margin, so that the box's edge is blurred with the pixels beyond it.
    padded = box.wider(2 * radius, canvas.shape[:2])
    side = (2 * radius + 1, 2 * radius + 1, 1)
    soft: Floats = uniform_filter(uniform_filter(padded.cut(canvas), side), side)
    top, left = box.top - padded.top, box.left - padded.left
    return soft[top : top + box.size[0], left : left + box.size[1]]
