"""What a decoder returns: samples with their range, and an alpha channel apart; what all decoders check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # of uint8 or uint16

# Pixels of the largest file that is decoded: 134 megapixels take 403 MB as RGB.
MAX_PIXELS = 2**27
# Pages or frames of a file.
MAX_PICTURES = 1000

# A file counts as half-written where at least the last of this many parts of its data is zero, while zeros are rarer
# than this fraction before. Dark-field images and masks have zeros everywhere; they pass.
TAIL_PARTS, RARE_ZEROS = 32, 0.02


class FormatError(ValueError):
    """What is wrong with a file, as the end of a sentence that begins with its name."""


@dataclass(frozen=True)
class Decoded:
    """An image as its file declares it.

    `colors`: grey or RGB, uint8 or uint16 [H, W, 1 or 3], where 0 is black and `white` is white. `alpha`: [H, W], where
    `opaque` is opaque; None without transparency. `bits`: significant bits per sample where the file states them; None
    for 16-bit samples whose used range is not stated. `undeclared`: the number of channels beside these that the file
    does not call transparency; they are not decoded.
    """

    colors: Array
    alpha: Array | None = None
    white: int = 255
    opaque: int = 255
    bits: int | None = 8
    undeclared: int = 0


def unfinished() -> FormatError:
    """The error for a file whose end marker is missing."""
    return FormatError("cannot be read: it is truncated or half-written, its end marker is missing; copy it again")


def check_size(width: int, height: int) -> None:
    """Raise FormatError for a file of more than MAX_PIXELS, or of none, before it is decoded."""
    if width * height > MAX_PIXELS:
        raise FormatError(f"has {width}x{height} pixels; files of up to {MAX_PIXELS:,} are read: cut it into tiles")
    if min(width, height) < 1:
        raise FormatError(f"states {width}x{height} pixels: it is damaged or half-written; copy it again")


def check_count(pictures: int) -> None:
    """Raise FormatError for a file of more than MAX_PICTURES pages, before they are looked at."""
    if pictures > MAX_PICTURES:
        raise FormatError(f"has more than {MAX_PICTURES:,} pages; divide it into files of fewer")


def check_tail(data: bytes, dtype: type[np.uint8 | np.uint16] = np.uint8) -> None:
    """Raise FormatError if `data`, samples of `dtype` or compressed bytes, ends in zeros as an unfinished copy does."""
    samples = np.frombuffer(data, dtype, len(data) // np.dtype(dtype).itemsize)
    tail = len(samples) // TAIL_PARTS
    if tail == 0 or samples[-tail:].any():
        return
    used = samples[: np.flatnonzero(samples)[-1] + 1] if samples.any() else samples[:0]
    if len(used) and np.count_nonzero(used == 0) < RARE_ZEROS * len(used) and len(np.unique(used)) > 2:
        raise FormatError(
            f"is half-written: the last {1 - len(used) / len(samples):.0%} of its data is zero; copy it again, or, if "
            "that part is truly black, save it as PNG"
        )
