"""Stains along a line: branching cracks and scratches."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from glance_fast.stains.base import Edit, Mark, blend
from glance_fast.stains.checks import Range, check_counts, check_range, check_type
from glance_fast.stains.parameters import Size, Tone, log_uniform, uniform
from glance_fast.stains.raster import Floats, Polyline, noise, stroke

# Points this close draw a line without beads, even at a width of one pixel.
STEP = 0.5


@dataclass(frozen=True)
class _Limb:
    """One walked line of a crack, with the heading [n] (radians) at each of its points."""

    line: Polyline
    heading: Floats


@dataclass(frozen=True)
class Crack(Mark):
    """A thin jagged walk with thinner branches; `width` in pixels, `rough` the turn at a kink in radians.

    Raises ConfigError unless 0.5 ≤ width ≤ 16, 0 ≤ branches ≤ 16 and 0 ≤ rough ≤ 2.
    """

    length: Size = field(default=Size(0.08, 0.8))
    width: Range = (1, 4)
    branches: tuple[int, int] = (0, 4)
    rough: Range = (0.2, 0.8)
    tone: Tone = field(default=Tone(contrast=(0.08, 0.6), darker=0.85, tint=0, flat=0.5))

    def __post_init__(self) -> None:
        check_type("Crack.length", self.length, Size)
        check_range("Crack.width", self.width, (0.5, 16))
        check_counts("Crack.branches", self.branches, (0, 16))
        check_range("Crack.rough", self.rough, (0, 2))
        check_type("Crack.tone", self.tone, Tone)

    def draw(self, canvas: Floats, rng: np.random.Generator) -> Edit:
        length, radius = self.length.draw(canvas, rng), log_uniform(rng, self.width) / 2
        rough = uniform(rng, self.rough)
        start = rng.integers(canvas.shape[:2]).astype(np.float32)
        limbs = [_walk(start, length, radius, (rng.uniform(0, 2 * math.pi), rough), rng)]
        for _ in range(rng.integers(self.branches[0], self.branches[1] + 1)):
            limbs.append(_branch(limbs[rng.integers(len(limbs))], rough, rng))
        shape = stroke(Polyline.joined([limb.line for limb in limbs]), canvas.shape[:2])
        return blend(canvas, shape, self.tone.target(canvas, shape, rng))


@dataclass(frozen=True)
class Scratch(Mark):
    """Nearly parallel lines, straight or bent by up to `bend` radians, with soft ends; `width` in pixels.

    Raises ConfigError unless 0.5 ≤ width ≤ 16, 0 ≤ bend ≤ 3 and 1 ≤ lines ≤ 16.
    """

    length: Size = field(default=Size(0.08, 1))
    width: Range = (0.8, 5)
    bend: Range = (0, 0.6)
    lines: tuple[int, int] = (1, 3)
    tone: Tone = field(default=Tone(contrast=(0.06, 0.6), darker=0.5, tint=0.1, flat=0.3))

    def __post_init__(self) -> None:
        check_type("Scratch.length", self.length, Size)
        check_range("Scratch.width", self.width, (0.5, 16))
        check_range("Scratch.bend", self.bend, (0, 3))
        check_counts("Scratch.lines", self.lines, (1, 16))
        check_type("Scratch.tone", self.tone, Tone)

    def draw(self, canvas: Floats, rng: np.random.Generator) -> Edit:
        length, radius = self.length.draw(canvas, rng), log_uniform(rng, self.width) / 2
        middle = rng.integers(canvas.shape[:2]).astype(np.float32)
        angle, bend = rng.uniform(0, 2 * math.pi), uniform(rng, self.bend)
        paths = [_arc(middle, length, radius, (angle, bend), rng)]
        for _ in range(1, rng.integers(self.lines[0], self.lines[1] + 1)):
            aside = middle + rng.normal(0, 2 + 4 * radius, 2).astype(np.float32)
            turned = (angle + rng.normal(0, 0.05), bend)
            paths.append(_arc(aside, length * rng.uniform(0.4, 1), radius * rng.uniform(0.5, 1), turned, rng))
        shape = stroke(Polyline.joined(paths), canvas.shape[:2])
        return blend(canvas, shape, self.tone.target(canvas, shape, rng))


def _walk(start: Floats, length: float, radius: float, course: Range, rng: np.random.Generator) -> _Limb:
    """A jagged line from `start` that thins out; `course`: first heading and roughness, in radians."""
    count = max(2, int(length / STEP))
    # Straight pieces of a few pixels, each turned off a drifting course, look more like cracks than curves.
    piece = int(rng.integers(6, 20))
    kinks = rng.normal(0, course[1], -(-count // piece))
    drift = np.cumsum(rng.normal(0, 0.3 * course[1], len(kinks)))
    heading = np.repeat(course[0] + kinks + drift, piece)[:count].astype(np.float32)
    steps = np.stack([np.sin(heading), np.cos(heading)], axis=1) * np.float32(STEP)
    along = np.linspace(0, 1, count, dtype=np.float32)
    at = start + np.cumsum(steps, axis=0) - steps[0]
    return _Limb(Polyline(at, np.maximum(radius * (1 - 0.7 * along), np.float32(0.4)), 1 - 0.4 * along), heading)


def _branch(parent: _Limb, rough: float, rng: np.random.Generator) -> _Limb:
    """A thinner, shorter walk that leaves its parent to one side."""
    count = len(parent.heading)
    fork = int(count * rng.uniform(0.1, 0.8))
    heading = float(parent.heading[fork]) + float(rng.choice((-1, 1)) * rng.uniform(0.4, 1.2))
    length = (count - fork) * STEP * rng.uniform(0.3, 0.9)
    return _walk(parent.line.at[fork], length, 0.7 * float(parent.line.radius[fork]), (heading, rough), rng)


def _arc(middle: Floats, length: float, radius: float, course: Range, rng: np.random.Generator) -> Polyline:
    """A line round `middle` of even width whose strength fades at its ends and varies along it."""
    count = max(3, int(length / STEP))
    along = np.linspace(-0.5, 0.5, count, dtype=np.float32)
    heading = course[0] + course[1] * along
    steps = np.stack([np.sin(heading), np.cos(heading)], axis=1).astype(np.float32) * np.float32(STEP)
    at = np.cumsum(steps, axis=0)
    ends = np.clip((0.5 - np.abs(along)) / np.float32(rng.uniform(0.02, 0.4)), 0.1, 1)
    uneven = 0.8 + 0.2 * noise((1, count), rng.uniform(4, 60), rng)[0]
    return Polyline(at - at[count // 2] + middle, np.full(count, radius, np.float32), ends * uneven)
