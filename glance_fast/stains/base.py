"""The interface of a stain, and how a drawn edit becomes a stained image with the mask of its changed pixels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from glance_fast.errors import ImageError
from glance_fast.stains.raster import Floats, Shape, mean_inside

# A pixel belongs to the mask when a channel changed by more than this: about five grey levels of 255.
VISIBLE = 0.02
MIN_SIDE = 8
MAX_TRIES = 4
# An edit that changes fewer pixels than the smallest pit covers is drawn again.
MIN_CHANGED_PIXELS = 4
# The change that is applied when no try was visible, as with a copy inside a constant image.
FALLBACK_CHANGE = 0.35


@dataclass(frozen=True)
class Stained:
    """A stained copy, float32 [H, W, 3] in 0..1, and the bool [H, W] mask of its visibly changed pixels."""

    image: Floats
    mask: NDArray[np.bool_]


class Stain(Protocol):
    """Anything that stains a copy of a float32 [H, W, 3] image in 0..1 with sides of 8 pixels or more."""

    def __call__(self, image: Floats, rng: np.random.Generator, /) -> Stained: ...


@dataclass(frozen=True)
class Edit:
    """New values [h, w, C] for the box of a shape."""

    shape: Shape
    region: Floats


class Mark(ABC):
    """Base class of stains: `draw` computes an edit; a call applies it, and always changes visible pixels.

    Raises ImageError for an image that is not float32 [H, W, 3] in 0..1 with sides of 8 pixels or more.
    """

    def __call__(self, image: Floats, rng: np.random.Generator, /) -> Stained:
        check_image(image)
        # A grey image is edited as a single channel, so no stain can tint it.
        canvas = image[..., :1] if is_grey(image) else image
        for _ in range(MAX_TRIES):
            edit = self.draw(canvas, rng)
            changed = visible(edit.shape.box.cut(canvas), edit.region)
            if np.count_nonzero(changed) >= MIN_CHANGED_PIXELS:
                return _painted(image, edit, changed)
        edit = strong(canvas, edit.shape)
        return _painted(image, edit, visible(edit.shape.box.cut(canvas), edit.region))

    @abstractmethod
    def draw(self, canvas: Floats, rng: np.random.Generator) -> Edit:
        """A random edit of a canvas [H, W, C], C = 1 (grey) or 3; somewhere in it its alpha is above 0."""


def blend(canvas: Floats, shape: Shape, target: Floats) -> Edit:
    """Blend the box with `target` [h, w, C] (or what broadcasts to it), weighted by the shape's alpha."""
    old = shape.box.cut(canvas)
    return Edit(shape, np.clip(old + shape.alpha[..., None] * (target - old), 0, 1))


def strong(canvas: Floats, shape: Shape) -> Edit:
    """Shift the core of a shape by FALLBACK_CHANGE away from its own brightness, which is visible on any image."""
    core = Shape(shape.box, (shape.alpha >= 0.5 * shape.alpha.max()).astype(np.float32))
    old = core.box.cut(canvas)
    shift = -FALLBACK_CHANGE if mean_inside(old, core.alpha).mean() > 0.5 else FALLBACK_CHANGE
    return blend(canvas, core, old + np.float32(shift))


def visible(before: Floats, after: Floats) -> NDArray[np.bool_]:
    """Where a channel changed by more than VISIBLE: bool [h, w] of two [h, w, C]."""
    moved = np.abs(after - before) > VISIBLE
    # Or-ing channels is several times faster than any(axis=2), which visits pixel by pixel.
    mask: NDArray[np.bool_] = moved[..., 0]
    for channel in range(1, moved.shape[2]):
        mask = mask | moved[..., channel]
    return mask


def is_grey(image: Floats) -> bool:
    """Whether all channels are equal."""
    return np.array_equal(image[..., 0], image[..., 1]) and np.array_equal(image[..., 1], image[..., 2])


def image_fault(image: Any) -> str | None:
    """Why `image` is not a float32 [H, W, 3] in 0..1 of at least 8x8; None if it is."""
    if not isinstance(image, np.ndarray):
        return f"a {type(image).__name__}"
    if image.dtype != np.float32 or image.ndim != 3 or image.shape[2] != 3:
        return f"{image.dtype} {list(image.shape)}"
    if min(image.shape[:2]) < MIN_SIDE:
        return f"{image.shape[0]}x{image.shape[1]} pixels"
    low, high = float(image.min()), float(image.max())
    # Written so that a NaN, which compares as false, is a fault too.
    return None if low >= 0 and high <= 1 else f"values from {low:g} to {high:g}"


def check_image(image: Any) -> None:
    """Raise ImageError unless `image` is float32 [H, W, 3] in 0..1 of at least 8x8."""
    if fault := image_fault(image):
        raise ImageError(
            f"a stain needs a float32 image [H, W, 3] in 0..1, {MIN_SIDE}x{MIN_SIDE} pixels or "
            f"more, got {fault}; for uint8 pixels use image.astype(np.float32) / 255"
        )


def _painted(image: Floats, edit: Edit, changed: NDArray[np.bool_]) -> Stained:
    out, mask = image.copy(), np.zeros(image.shape[:2], np.bool_)
    edit.shape.box.cut(out)[:] = edit.region
    edit.shape.box.cut(mask)[:] = changed
    return Stained(out, mask)
