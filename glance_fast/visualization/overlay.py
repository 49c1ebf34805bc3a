"""Pictures of a result: the heat map over the photo, the marked pixels outlined, the verdict below."""

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

SMALL = 192  # a shorter side below this is enlarged, so that outlines and captions can be read
LARGE = 2048  # and enlarging stops before a longer side grows beyond this
FINE, WIDE = 400, 150  # outlines: so many of their widths make the longer side
STRENGTH = 0.6  # of the heat colour where the map reaches the pixel threshold

MARKED: Color = (0, 255, 240)
TRUTH: Color = (60, 255, 90)
MATTE: Color = (21, 23, 28)
GAP: Color = (78, 84, 96)
INK: Color = (226, 229, 235)
ALARM: Color = (255, 107, 87)
CALM: Color = (92, 214, 142)
# Matplotlib's colour map "plasma" at even steps; the base install holds no Matplotlib.
PLASMA: tuple[Color, ...] = (
    (13, 8, 135), (51, 5, 151), (80, 2, 162), (106, 0, 168), (132, 5, 167), (156, 23, 158), (177, 42, 144),
    (195, 61, 128), (211, 81, 113), (225, 100, 98), (237, 121, 83), (246, 143, 68), (252, 166, 54), (254, 192, 41),
    (249, 220, 36), (240, 249, 33),
)  # fmt: skip


class Scored(Protocol):
    """What a picture needs of a result: its verdict, and its map float32 [H, W] with the map's threshold."""

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
    colored = Image.fromarray(_shades((anomaly_map - low) * (255 / span)), "P")
    colored.putpalette(_palette())
    return np.asarray(colored.convert("RGB"))


def overlay(image: Pixels, result: Scored, caption: bool = True, parts: int = FINE) -> Pixels:
    """The photo uint8 [H, W, 3] under its heat map, with the pixels above the pixel threshold outlined.

    The heat is transparent where the map is low. `caption` adds a strip below with verdict, score, threshold
    and p-value; the outline is as wide as one of `parts` of the longer side. Small images are enlarged by a
    whole factor k, so the answer is uint8 [kH + strip, kW, 3]. Raises ImageError when the sizes differ.
    """
    _check_size(image, result.map.shape, "the anomaly map")
    factor = enlargement(image.shape[0], image.shape[1])
    photo, anomaly_map = _enlarge(image, factor), _enlarge(result.map, factor)
    low, high = heat_range(result.map, result.pixel_threshold)
    start = (low + result.pixel_threshold) / 2
    opaque = _shades((anomaly_map - start) * (255 * STRENGTH / max(result.pixel_threshold - start, 1e-12)), STRENGTH)
    layers = (Image.fromarray(layer) for layer in (heat(anomaly_map, low, high), photo, opaque))
    outlined = outline(np.asarray(Image.composite(*layers)), result.map > result.pixel_threshold, MARKED, parts)
    return np.concatenate([outlined, _caption(result, outlined.shape[1])]) if caption else outlined


def side_by_side(image: Pixels, result: Scored, truth: NDArray[np.bool_] | None) -> Pixels:
    """Photo, heat overlay and, where there is a ground truth bool [H, W], the photo with it outlined.

    From left to right, and from top to bottom where `is_wide`. Lines are wide, to be seen in a small picture.
    Raises ImageError when the sizes differ.
    """
    photo = _enlarge(image, enlargement(image.shape[0], image.shape[1]))
    panels = [photo, overlay(image, result, caption=False, parts=WIDE)]
    if truth is not None:
        _check_size(image, truth.shape, "the ground truth")
        panels.append(outline(photo, truth, TRUTH, parts=WIDE))
    axis = 0 if is_wide(image) else 1
    space = [photo.shape[0], photo.shape[1], 3]
    space[axis] = max(2, max(photo.shape) // 60)
    gap = np.full(space, GAP, np.uint8)
    return np.concatenate([part for panel in panels for part in (gap, panel)][1:], axis=axis)


def is_wide(image: Pixels) -> bool:
    """Whether panels of this image stand better below each other than side by side."""
    return bool(image.shape[1] > 2 * image.shape[0])


def save_jpeg(pixels: Pixels, path: Path) -> None:
    """Write uint8 [H, W, 3] as a JPEG file in one step, making its folder; raises SaveError."""
    buffer = io.BytesIO()
    # Colours at full resolution, for the thin outlines. PNG takes twenty times as long, at four times the size.
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90, subsampling=0)
    replace_file(path, buffer.getvalue())


def heat_range(anomaly_map: NDArray[np.floating], pixel_threshold: float) -> tuple[float, float]:
    """The map values that get the first and the last colour.

    From the map's median, its background, to its peak; the last colour stands at least as far above the
    threshold as the background lies below, so that an ordinary image is not painted in alarm colours.
    """
    low = min(float(np.median(anomaly_map)), pixel_threshold)
    return low, max(float(anomaly_map.max()), 2 * pixel_threshold - low)


def outline(pixels: Pixels, mask: NDArray[np.bool_], color: Color, parts: int = FINE) -> Pixels:
    """A copy of `pixels` uint8 [kH, kW, 3] with the regions of `mask` bool [H, W] outlined on their outside.

    The line, as wide as one of `parts` of the longer side, has a dark rim, so that it is seen on any photo.
    """
    drawn = pixels.copy()
    if not mask.any():
        return drawn
    factor, line = len(pixels) // len(mask), max(1, round(max(pixels.shape) / parts))
    reach = -(-2 * line // factor) + 1  # of the line and its rim, and of what smoothing sees
    rows, cols = (_around(np.flatnonzero(mask.any(axis)), reach, mask.shape[1 - axis]) for axis in (1, 0))
    part = mask[rows, cols]
    # Smooths the stairs of an enlarged mask and keeps its single pixels: their middle stays above one half.
    size = (part.shape[1] * factor, part.shape[0] * factor)
    region = Image.fromarray(part.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    inside = np.asarray(region) >= 128
    thin = _grown(inside, line)
    view = drawn[rows.start * factor : rows.stop * factor, cols.start * factor : cols.stop * factor]
    view[_grown(thin, max(1, line // 2)) & ~inside] = np.asarray(MATTE, np.uint8)
    view[thin & ~inside] = np.asarray(color, np.uint8)
    return drawn


def enlargement(height: int, width: int) -> int:
    """The whole factor that makes a small image readable: shorter side 192, longer side at most 2048."""
    return max(1, min(math.ceil(SMALL / min(height, width)), LARGE // max(height, width)))


def _around(places: NDArray[np.int64], reach: int, count: int) -> slice:
    """The part of an axis from the first of `places` to the last, and `reach` more on both sides."""
    return slice(max(int(places[0]) - reach, 0), min(int(places[-1]) + 1 + reach, count))


def _check_size(image: Pixels, shape: tuple[int, ...], what: str) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ImageError(f"a picture needs an image uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    if image.shape[:2] != shape:
        raise ImageError(
            f"the image is {list(image.shape[:2])} and {what} {list(shape)}; both must have the same height and width"
        )


def _grown(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """The mask with `by` pixels more on every side."""
    for _ in range(2):  # one axis, then the other
        grown = mask.copy()
        for step in range(1, by + 1):
            grown[step:] |= mask[:-step]
            grown[:-step] |= mask[step:]
        mask = grown.T
    return mask


def _enlarge(pixels: NDArray[Kind], factor: int) -> NDArray[Kind]:
    if factor == 1:
        return pixels
    size = (pixels.shape[1] * factor, pixels.shape[0] * factor)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR), pixels.dtype)


def _shades(values: NDArray[np.floating], most: float = 1.0) -> Pixels:
    """Values as uint8, cut off at 0 and at the share `most` of 255."""
    shades: Pixels = (values.clip(0, 255 * most) + 0.5).astype(np.uint8)
    return shades


@lru_cache(maxsize=1)
def _palette() -> bytes:
    at = np.linspace(0, 255, len(PLASMA))
    channels = [np.interp(np.arange(256), at, channel) for channel in zip(*PLASMA, strict=True)]
    return np.stack(channels, axis=1).astype(np.uint8).tobytes()


def _caption(result: Scored, width: int) -> Pixels:
    """The strip of text below a picture, as many lines as the width asks for."""
    size = min(32, max(13, width // 28))
    font = ImageFont.load_default(size)
    verdict, color = ("anomalous", ALARM) if result.is_anomalous else ("normal", CALM)
    words = [
        (verdict, color),
        (f"score {result.score:.4g}", INK),
        (f"threshold {result.threshold:.4g}", INK),
        (f"p-value {result.p_value:.3g}", INK),
    ]
    lines = list(_wrapped(words, width - size, font, size))
    strip = Image.new("RGB", (width, round((len(lines) * 1.5 + 0.7) * size)), MATTE)
    draw = ImageDraw.Draw(strip)
    for row, line in enumerate(lines):
        left = size / 2
        for text, ink in line:
            draw.text((left, (row * 1.5 + 0.55) * size), text, fill=ink, font=font)
            left += font.getlength(text) + size
    return np.asarray(strip)


def _wrapped(words: list[tuple[str, Color]], width: float, font: Font, gap: int) -> Iterator[list[tuple[str, Color]]]:
    """Cut words into lines of at most `width` pixels, never inside a word, with `gap` between words."""
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
