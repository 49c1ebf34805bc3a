"""Overlays of a result: the heat map over the photo, anomalous regions outlined, the verdict below."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from glance_fast.errors import ImageError
from glance_fast.storage.atomic_write import replace_file

Pixels = NDArray[np.uint8]
Kind = TypeVar("Kind", np.uint8, np.float32)
Color = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

MIN_SHORT_SIDE = 192  # smaller images are enlarged, so that outlines and captions can be read
MAX_LONG_SIDE = 2048  # of an enlarged image
# Width of an outline: the longer side over this number, for pictures of full size and for small ones.
FINE_OUTLINE, WIDE_OUTLINE = 400, 150
HEAT_OPACITY = 0.6  # where the map reaches the pixel threshold

ANOMALOUS_OUTLINE: Color = (0, 255, 240)
TRUTH_OUTLINE: Color = (60, 255, 90)
BACKGROUND: Color = (21, 23, 28)
GAP: Color = (78, 84, 96)
TEXT: Color = (226, 229, 235)
ANOMALOUS_TEXT: Color = (255, 107, 87)
NORMAL_TEXT: Color = (92, 214, 142)
# Matplotlib's colour map "plasma" at even steps; the base install does not include Matplotlib.
PLASMA: tuple[Color, ...] = (
    (13, 8, 135), (51, 5, 151), (80, 2, 162), (106, 0, 168), (132, 5, 167), (156, 23, 158), (177, 42, 144),
    (195, 61, 128), (211, 81, 113), (225, 100, 98), (237, 121, 83), (246, 143, 68), (252, 166, 54), (254, 192, 41),
    (249, 220, 36), (240, 249, 33),
)  # fmt: skip


class Scored(Protocol):
    """The part of a result that an overlay shows: its verdict, and its map float32 [H, W] with the pixel threshold."""

    @property
    def score(self) -> float: ...
    @property
    def threshold(self) -> float: ...
    @property
    def p_value(self) -> float: ...
    @property
    def is_anomalous(self) -> bool: ...
    @property
    def map(self) -> NDArray[np.float32]: ...
    @property
    def pixel_threshold(self) -> float: ...


def heat(anomaly_map: NDArray[np.floating], low: float, high: float) -> Pixels:
    """Colours of a map [H, W], uint8 [H, W, 3]: dark blue at `low` and below, yellow at `high` and above."""
    span = high - low if high > low else 1.0
    colored = Image.fromarray(_to_uint8((anomaly_map - low) * (255 / span)), "P")
    colored.putpalette(_palette())
    return np.asarray(colored.convert("RGB"))


def overlay(image: Pixels, result: Scored, caption: bool = True, parts: int = FINE_OUTLINE) -> Pixels:
    """The photo uint8 [H, W, 3] under its heat map, with the pixels above the pixel threshold outlined.

    The heat map is transparent where the map is low. `caption` adds a strip below with verdict, score, threshold and
    p-value; the width of the outline is the longer side over `parts`. Small images are enlarged by an integer factor k,
    so the result is uint8 [kH + strip, kW, 3]. Raises ImageError when the sizes differ.
    """
    _check_size(image, result.map.shape, "the anomaly map")
    factor = enlargement(image.shape[0], image.shape[1])
    photo, anomaly_map = _enlarge(image, factor), _enlarge(result.map, factor)
    low, high = heat_range(result.map, result.pixel_threshold)
    start = (low + result.pixel_threshold) / 2
    slope = 255 * HEAT_OPACITY / max(result.pixel_threshold - start, 1e-12)
    opacity = _to_uint8((anomaly_map - start) * slope, HEAT_OPACITY)
    layers = (Image.fromarray(layer) for layer in (heat(anomaly_map, low, high), photo, opacity))
    blended = np.asarray(Image.composite(*layers))
    outlined = outline(blended, result.map > result.pixel_threshold, ANOMALOUS_OUTLINE, parts)
    return np.concatenate([outlined, _caption(result, outlined.shape[1])]) if caption else outlined


def side_by_side(image: Pixels, result: Scored, truth: NDArray[np.bool_] | None) -> Pixels:
    """Photo, overlay and, with a ground truth bool [H, W], the photo with the true region outlined.

    From left to right, or from top to bottom where `is_wide`. Outlines are wide, to be visible in a small picture.
    Raises ImageError when the sizes differ.
    """
    photo = _enlarge(image, enlargement(image.shape[0], image.shape[1]))
    panels = [photo, overlay(image, result, caption=False, parts=WIDE_OUTLINE)]
    if truth is not None:
        _check_size(image, truth.shape, "the ground truth")
        panels.append(outline(photo, truth, TRUTH_OUTLINE, parts=WIDE_OUTLINE))
    axis = 0 if is_wide(image) else 1
    space = [photo.shape[0], photo.shape[1], 3]
    space[axis] = max(2, max(photo.shape) // 60)
    gap = np.full(space, GAP, np.uint8)
    return np.concatenate([part for panel in panels for part in (gap, panel)][1:], axis=axis)


def is_wide(image: Pixels) -> bool:
    """Whether panels of this image are stacked from top to bottom instead of side by side."""
    return bool(image.shape[1] > 2 * image.shape[0])


def save_jpeg(pixels: Pixels, path: Path) -> None:
    """Write uint8 [H, W, 3] as a JPEG file atomically, creating its folder; raises SaveError."""
    buffer = io.BytesIO()
    # Colours at full resolution, for the thin outlines. PNG takes twenty times as long, at four times the size.
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90, subsampling=0)
    replace_file(path, buffer.getvalue())


def heat_range(anomaly_map: NDArray[np.floating], pixel_threshold: float) -> tuple[float, float]:
    """The map values of the first and the last colour.

    From the map's median, its background, to its peak. The last colour is at least as far above the threshold as the
    background is below it, so that a normal image does not get the colours of an anomaly.
    """
    low = min(float(np.median(anomaly_map)), pixel_threshold)
    return low, max(float(anomaly_map.max()), 2 * pixel_threshold - low)


def outline(pixels: Pixels, mask: NDArray[np.bool_], color: Color, parts: int = FINE_OUTLINE) -> Pixels:
    """A copy of `pixels` uint8 [kH, kW, 3] with the regions of `mask` bool [H, W] outlined.

    The line is outside the regions, as wide as the longer side over `parts`, with a dark rim: visible on any photo.
    """
    drawn = pixels.copy()
    if not mask.any():
        return drawn
    factor, line = len(pixels) // len(mask), max(1, round(max(pixels.shape) / parts))
    reach = -(-2 * line // factor) + 1  # of the line with its rim, and one pixel for the smoothing
    rows, cols = (_around(np.flatnonzero(mask.any(axis)), reach, mask.shape[1 - axis]) for axis in (1, 0))
    part = mask[rows, cols]
    # Smooths the steps of an enlarged mask; a single pixel stays, as its middle is above one half.
    size = (part.shape[1] * factor, part.shape[0] * factor)
    region = Image.fromarray(part.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    inside = np.asarray(region) >= 128
    thin = _dilated(inside, line)
    view = drawn[rows.start * factor : rows.stop * factor, cols.start * factor : cols.stop * factor]
    view[_dilated(thin, max(1, line // 2)) & ~inside] = np.asarray(BACKGROUND, np.uint8)
    view[thin & ~inside] = np.asarray(color, np.uint8)
    return drawn


def enlargement(height: int, width: int) -> int:
    """Integer factor that enlarges a small image: shorter side to 192 or more, longer side to at most 2048."""
    return max(1, min(math.ceil(MIN_SHORT_SIDE / min(height, width)), MAX_LONG_SIDE // max(height, width)))


def _around(indices: NDArray[np.int64], reach: int, count: int) -> slice:
    """Slice of an axis of `count` from the first of `indices` to the last, extended by `reach` on both sides."""
    return slice(max(int(indices[0]) - reach, 0), min(int(indices[-1]) + 1 + reach, count))


def _check_size(image: Pixels, shape: tuple[int, ...], what: str) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ImageError(f"a picture needs an image uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    if image.shape[:2] != shape:
        raise ImageError(
            f"the image is {list(image.shape[:2])} and {what} {list(shape)}; both must have the same height and width"
        )


def _dilated(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """The mask dilated by a square of 2 `by` + 1 pixels."""
    for _ in range(2):  # one axis, then the other
        dilated = mask.copy()
        for step in range(1, by + 1):
            dilated[step:] |= mask[:-step]
            dilated[:-step] |= mask[step:]
        mask = dilated.T
    return mask


def _enlarge(pixels: NDArray[Kind], factor: int) -> NDArray[Kind]:
    if factor == 1:
        return pixels
    size = (pixels.shape[1] * factor, pixels.shape[0] * factor)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR), pixels.dtype)


def _to_uint8(values: NDArray[np.floating], highest: float = 1.0) -> Pixels:
    """Values rounded to uint8, clipped to 0..255 · `highest`."""
    rounded: Pixels = (values.clip(0, 255 * highest) + 0.5).astype(np.uint8)
    return rounded


@lru_cache(maxsize=1)
def _palette() -> bytes:
    at = np.linspace(0, 255, len(PLASMA))
    channels = [np.interp(np.arange(256), at, channel) for channel in zip(*PLASMA, strict=True)]
    return np.stack(channels, axis=1).astype(np.uint8).tobytes()


def _caption(result: Scored, width: int) -> Pixels:
    """The strip of text below an overlay, in as many lines as fit its width."""
    size = min(32, max(13, width // 28))
    font = ImageFont.load_default(size)
    verdict, color = ("anomalous", ANOMALOUS_TEXT) if result.is_anomalous else ("normal", NORMAL_TEXT)
    words = [
        (verdict, color),
        (f"score {result.score:.4g}", TEXT),
        (f"threshold {result.threshold:.4g}", TEXT),
        (f"p-value {result.p_value:.3g}", TEXT),
    ]
    lines = list(_wrapped(words, width - size, font, size))
    strip = Image.new("RGB", (width, round((len(lines) * 1.5 + 0.7) * size)), BACKGROUND)
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        left = size / 2
        for text, color in line:
            draw.text((left, (number * 1.5 + 0.55) * size), text, fill=color, font=font)
            left += font.getlength(text) + size
    return np.asarray(strip)


def _wrapped(words: list[tuple[str, Color]], width: float, font: Font, gap: int) -> Iterator[list[tuple[str, Color]]]:
    """Break words into lines of at most `width` pixels, with `gap` pixels between words."""
    line: list[tuple[str, Color]] = []
    used = 0.0
    for text, color in words:
        length = font.getlength(text)
        if line and used + length > width:
            yield line
            line, used = [], 0.0
        line.append((text, color))
        used += length + gap
    yield line
