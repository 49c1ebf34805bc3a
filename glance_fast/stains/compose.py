"""Stains composed of stains: a random choice, several together, and the mixture that training uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glance_fast.errors import ConfigError
from glance_fast.stains.base import Stain, Stained, visible
from glance_fast.stains.checks import check_counts, is_number
from glance_fast.stains.lines import Crack, Scratch
from glance_fast.stains.parameters import Outline, Size
from glance_fast.stains.raster import Floats
from glance_fast.stains.regions import Blur, PastedTexture, RegionShift
from glance_fast.stains.spots import Blob, Pit, Shade


@dataclass(frozen=True)
class OneOf:
    """A random stain of `stains`, drawn by `weights` (equal if None; they need not sum to 1).

    Raises ConfigError unless there are stains and as many weights, if any, all ≥ 0 and not all 0.
    """

    stains: tuple[Stain, ...] | list[Stain]
    weights: tuple[float, ...] | list[float] | None = None

    def __post_init__(self) -> None:
        if not _is_list(self.stains) or not self.stains or not all(callable(stain) for stain in self.stains):
            raise ConfigError(f"OneOf.stains must be a list of one stain or more, got {self.stains!r}")
        if self.weights is None:
            return
        if not _is_list(self.weights) or len(self.weights) != len(self.stains):
            raise ConfigError(f"OneOf.weights must be {len(self.stains)}, one a stain, got {self.weights!r}")
        if not all(is_number(w) and w >= 0 for w in self.weights) or not 0 < sum(self.weights) < float("inf"):
            raise ConfigError(f"OneOf.weights must be 0 or more and not all 0, got {self.weights!r}")

    def __call__(self, image: Floats, rng: np.random.Generator, /) -> Stained:
        odds = None if self.weights is None else np.array(self.weights, np.float64) / sum(self.weights)
        return self.stains[rng.choice(len(self.stains), p=odds)](image, rng)


@dataclass(frozen=True)
class Several:
    """From `low` to `high` stains on top of each other; the mask compares the result with the original.

    Raises ConfigError unless 1 ≤ low ≤ high ≤ 64.
    """

    stain: Stain
    low: int
    high: int

    def __post_init__(self) -> None:
        if not callable(self.stain):
            raise ConfigError(f"Several.stain must be a stain, got {self.stain!r}")
        check_counts("Several.low, high", (self.low, self.high), (1, 64))

    def __call__(self, image: Floats, rng: np.random.Generator, /) -> Stained:
        first = stained = self.stain(image, rng)
        count = int(rng.integers(self.low, self.high + 1))
        for _ in range(1, count):
            stained = self.stain(stained.image, rng)
        if count == 1:
            return first
        combined = Stained(stained.image, visible(image, stained.image))
        # Later stains may undo the earlier ones; then only the first is returned.
        return combined if combined.mask.any() else first


def default_stains(others: Sequence[Floats] = ()) -> Stain:
    """The training mixture: 3-pixel pits to half of the image, barely visible to strong, sometimes together.

    `others`: textures to paste, float32 [H, W, 3] in 0..1. Raises ConfigError for other arrays.
    """
    small = Outline(Size(3, 14, "px"), (1, 3), (0, 0.5), (0.1, 0.8), boxy=0.1)
    kinds: list[tuple[Stain, float]] = [
        (Blob(), 3),
        (Several(Blob(small), 1, 4), 2),
        (Several(Pit(), 1, 6), 2),
        (Crack(), 3),
        (Scratch(), 3),
        (RegionShift(), 2),
        (PastedTexture(others=tuple(others)), 3),
        (Shade(), 1),
        (Blur(), 1),
    ]
    single = OneOf(tuple(stain for stain, _ in kinds), tuple(weight for _, weight in kinds))
    return OneOf((single, Several(single, 2, 3)), (0.7, 0.3))


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)
