"""Pillow's decoders: the frames of a file, and all bits of 16-bit colours, of which Pillow keeps eight."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from glance_fast.data.formats.decoded import Decoded, FormatError, check_size

# Byte orders of Pillow's raw modes. Read in the opposite order, a 16-bit sample gives its low byte, else its high byte.
_OPPOSITE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}

ORIENTATION = ExifTags.Base.Orientation

# MPO: types of frames that are pictures of their own. Others are previews and gain maps of the first.
_MPO_PICTURES = {
    "Multi-Frame Image (Panorama)",
    "Multi-Frame Image: (Disparity)",
    "Multi-Frame Image: (Multi-Angle)",
}


@contextmanager
def opened(data: bytes, kind: str, frame: int = 0) -> Iterator[Image.Image]:
    """A frame of a file, not yet decoded; only the decoder `kind` is tried. Raises FormatError for one too large."""
    with Image.open(io.BytesIO(data), formats=[kind]) as image:
        check_size(image.width, image.height)
        if frame:
            image.seek(frame)
        yield image


def count_frames(image: Image.Image) -> int:
    """The number of pictures in a file that is open: frames of an animation, views of a stereo or panorama JPEG."""
    if image.format == "MPO":
        entries = image.mpinfo[0xB002]  # type: ignore[attr-defined]
        return max(1, sum(entry["Attribute"]["MPType"] in _MPO_PICTURES for entry in entries))
    return int(getattr(image, "n_frames", 1))


def rotated(pixels: NDArray[np.uint8], image: Image.Image) -> NDArray[np.uint8]:
    """`pixels` [H, W, 3] rotated as the EXIF data of `image` says."""
    orientation = image.getexif().get(ORIENTATION, 1)
    if orientation == 1:
        return pixels
    turned = Image.fromarray(pixels)
    turned.getexif()[ORIENTATION] = orientation
    return np.array(ImageOps.exif_transpose(turned))


def upright(image: Image.Image) -> Image.Image:
    """The decoded image, rotated as its EXIF data says."""
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return image


def from_pillow(image: Image.Image) -> Decoded:
    """A Pillow image of 8 bits, or grey of 16; raises FormatError for 32 bits, and what Pillow raises."""
    if image.mode.startswith("I;16"):
        return Decoded(np.asarray(image).astype(np.uint16)[:, :, None], white=65535, bits=None)
    if image.mode in ("F", "I"):
        raise FormatError("holds 32-bit samples, which have no fixed range here; save it with 8 or 16 bits")
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = np.array(image.convert("RGBA"))
        return Decoded(rgba[:, :, :3], rgba[:, :, 3])
    return Decoded(np.array(image if image.mode == "RGB" else image.convert("RGB")))


def read_frame(data: bytes, kind: str, frame: int = 0) -> Decoded:
    """A frame of a file with at most 8 bits of colour or 16 of grey."""
    with opened(data, kind, frame) as image:
        return from_pillow(upright(image))


def keeps_high_bytes(image: Image.Image) -> bool:
    """Whether Pillow will keep the high bytes alone of an image that is not yet decoded."""
    return not image.mode.startswith("I") and any(";16" in _raw_mode(tile) for tile in getattr(image, "tile", ()))


def read_16_bit_colors(data: bytes, kind: str, frame: int = 0) -> NDArray[np.uint16]:
    """All 16 bits of an RGB or RGBA frame, uint16 [H, W, 3 or 4]: high bytes by one decoding, low bytes by another."""
    with opened(data, kind, frame) as image:
        high = np.asarray(upright(image)).astype(np.uint16)
    with opened(data, kind, frame) as image:
        image.tile = [tile._replace(args=_in_opposite_order(tile.args)) for tile in image.tile]  # type: ignore[attr-defined]
        low = np.asarray(upright(image))
    samples: NDArray[np.uint16] = high << np.uint16(8) | low
    return samples


def _raw_mode(tile: Any) -> str:
    return str(tile.args if isinstance(tile.args, str) else tile.args[0])


def _in_opposite_order(args: Any) -> Any:
    if not isinstance(args, str):
        return (_in_opposite_order(args[0]), *args[1:])
    if not args.endswith((";16B", ";16L", ";16N")):
        raise FormatError(f"holds 16-bit samples in an order that is not read ({args}); save it as 16-bit RGB")
    return args[:-1] + _OPPOSITE[args[-1]]
