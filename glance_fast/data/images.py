"""Images from files, arrays and PIL: RGB, with the range of their samples known."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glance_fast.data.formats.decode import SUFFIXES, count_pictures, decode
from glance_fast.data.formats.decoded import Decoded, FormatError
from glance_fast.data.formats.pillow import from_pillow, keeps_high_bytes
from glance_fast.data.formats.tiff import Layout
from glance_fast.data.meaning import FLOAT_ERROR, InputSettings, RgbImage, interpret
from glance_fast.data.regular_file import read_regular
from glance_fast.data.resizing import letterbox_window, reflect_indices
from glance_fast.errors import ImageError

Pixels = NDArray[np.uint8]

IMAGE_SUFFIXES = SUFFIXES

# How images are read where there is no model: transparency over black, the range as files state it.
AS_STATED = InputSettings()

# Bytes of the largest file that is read: 134 megapixels of four 16-bit samples.
MAX_BYTES = 2**30


@dataclass(frozen=True)
class ImageFile:
    """An image file as it was when it was read: its bytes, not decoded yet, and its path, which errors name."""

    path: Path
    data: bytes

    @classmethod
    def read(cls, path: Path) -> ImageFile:
        """Read the file `path`; raises ImageError naming it."""
        try:
            return cls(path, read_regular(path, MAX_BYTES))
        except FileNotFoundError:
            raise ImageError(f"{path} does not exist; check the path") from None
        except IsADirectoryError:
            raise ImageError(f"{path} is a folder, not an image; name a file in it") from None
        except OSError as error:
            raise ImageError(f"{path} cannot be read: {error.strerror}; save it again, or take it out") from error


ImageInput = np.ndarray | Image.Image | RgbImage | ImageFile | str | os.PathLike[str]


def is_tensor(image: object) -> bool:
    """Whether `image` is a torch tensor. PyTorch is not imported: without it there are no tensors."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(image, torch.Tensor)


def as_rgb(image: ImageInput, settings: InputSettings = AS_STATED, source: str = "image") -> RgbImage:
    """An image of any accepted kind but tensors, as RGB.

    Arrays are [H, W], [H, W, 1] or [H, W, 3] in the order of `settings.channels`: uint8, uint16 (in the range of
    `settings.bits`), bool, or floating in 0..1, of any byte order. A PIL image is RGB whatever `settings.channels` is,
    and is not rotated; a path is read by `read_rgb`, an `RgbImage` returned. Raises ImageError, naming `source`, for
    anything else. An alpha channel of an array is refused, never dropped.
    """
    if isinstance(image, (str, os.PathLike, ImageFile)):
        return read_rgb(image, settings)
    if isinstance(image, RgbImage):
        return image
    if isinstance(image, Image.Image):
        return _from_pil(image, settings, source)
    if not isinstance(image, np.ndarray):
        raise ImageError(
            f"{source}: a {type(image).__name__} is no image; give an array, a PIL image, a path or a torch tensor"
        )
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ImageError(
            f"{source}: an array of shape {image.shape} is no image; give [H, W] (grey) or [H, W, 3] (RGB)"
            + ("; take the alpha channel off first: image[:, :, :3]" if image.shape[-1:] == (4,) else "")
        )
    if image.size == 0:
        raise ImageError(f"{source}: the array is empty, shape {image.shape}; give at least one pixel")
    if settings.channels == "bgr":
        image = image[:, :, ::-1]
    if image.dtype.kind == "u" and image.dtype.itemsize == 2:
        return _interpreted(Decoded(image.astype(np.uint16), white=65535, bits=None), settings, source)
    grey_or_rgb = _as_uint8(image, source)
    return RgbImage(np.ascontiguousarray(np.broadcast_to(grey_or_rgb, (*image.shape[:2], 3))))


def read_rgb(
    file: str | os.PathLike[str] | ImageFile, settings: InputSettings = AS_STATED, page: int | None = None
) -> RgbImage:
    """Read an image file with all its bits, rotated as its EXIF data says; raises ImageError naming the file.

    `page` counts from 0; it is needed for a file of several pages or frames.
    """
    if not isinstance(file, ImageFile):
        file = ImageFile.read(Path(file))
    source = str(file.path) if page is None else f"{file.path}, page {page + 1}"
    try:
        decoded = decode(file.data, page)
    except FormatError as error:
        raise ImageError(f"{source} {error}") from error.__cause__
    return _interpreted(decoded, settings, source)


def read_image(path: str | os.PathLike[str], settings: InputSettings = AS_STATED) -> Pixels:
    """Read an image file as uint8 [H, W, 3], its range rounded to 256 levels; otherwise as `read_rgb`."""
    return read_rgb(path, settings).pixels


def read_gray(path: Path) -> Pixels:
    """Read an image file as uint8 [H, W]: the luminance; raises ImageError naming the file."""
    return np.array(Image.fromarray(read_image(path)).convert("L"))


def count_pages(path: Path) -> int:
    """The number of pages or frames of an image file; raises ImageError naming the file.

    Reduced-resolution copies, masks and previews, as the file declares them, do not count.
    """
    try:
        return count_pictures(ImageFile.read(path).data)
    except FormatError as error:
        raise ImageError(f"{path} {error}") from error.__cause__


def resize(image: Pixels, size: tuple[int, int], how: str = "stretch") -> Pixels:
    """Antialiased bilinear resize of [H, W, 3] to `size` (height, width); an image of that size is returned as it is.

    `how` is "stretch" or "letterbox": the second keeps the aspect ratio and fills the margins by reflection.
    """
    if image.shape[:2] == size:
        return image
    rows, cols = letterbox_window((image.shape[0], image.shape[1]), size, how)
    resized = np.asarray(Image.fromarray(image).resize((len(cols), len(rows)), Image.Resampling.BILINEAR))
    return _letterboxed(resized, rows, cols, size)


def resize_rgb(image: RgbImage, size: tuple[int, int], how: str = "stretch") -> Pixels:
    """`resize` of an image with all its bits: 16-bit samples are resized in float32 and rounded once, at the end."""
    if image.values.dtype == np.uint8:
        return resize(image.values, size, how)
    if image.size == size:
        return image.pixels
    rows, cols = letterbox_window(image.size, size, how)
    planes = [
        np.asarray(
            Image.fromarray(image.values[:, :, channel].astype(np.float32)).resize(
                (len(cols), len(rows)), Image.Resampling.BILINEAR
            )
        )
        for channel in range(image.values.shape[2])
    ]
    levels = np.rint(np.dstack(planes) * np.float32(255 / image.white)).clip(0, 255).astype(np.uint8)
    return _letterboxed(np.broadcast_to(levels, (len(rows), len(cols), 3)), rows, cols, size)


def _letterboxed(resized: Pixels, rows: range, cols: range, size: tuple[int, int]) -> Pixels:
    """The resized image in its window, mirrored beyond it."""
    if resized.shape[:2] == size:
        return np.ascontiguousarray(resized)
    return resized[np.ix_(reflect_indices(rows, size[0]), reflect_indices(cols, size[1]))]


def _as_uint8(image: NDArray[Any], source: str) -> Pixels:
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.bool_:
        return image.astype(np.uint8) * np.uint8(255)
    if not np.issubdtype(image.dtype, np.floating):
        raise ImageError(f"{source}: pixels of {image.dtype}; give uint8, uint16, bool, or floating point in 0..1")
    if not np.isfinite(image).all():
        raise ImageError(f"{source}: NaN or infinite pixels; give finite values in 0..1")
    low, high = float(image.min()), float(image.max())
    if low < -FLOAT_ERROR or high > 1 + FLOAT_ERROR:
        raise ImageError(f"{source}: floating pixels from {low:g} to {high:g}; bring them to 0..1")
    pixels: Pixels = np.rint(image.clip(0, 1) * 255).astype(np.uint8)
    return pixels


def _from_pil(image: Image.Image, settings: InputSettings, source: str) -> RgbImage:
    if image.width == 0 or image.height == 0:
        raise ImageError(f"{source}: the image is empty, {image.width}x{image.height} pixels")
    try:
        _check_lazy(image)
        decoded = from_pillow(image)
    except FormatError as error:
        raise ImageError(f"{source} {error}") from error.__cause__
    except Exception as error:  # a lazy PIL image is decoded only here, and Pillow cannot convert every mode
        raise ImageError(f"{source} cannot be read: {error}; save it again as RGB") from error
    return _interpreted(decoded, settings, source)


def _check_lazy(image: Image.Image) -> None:
    """Raise FormatError for a PIL image that was opened from a file and will not hold what the file holds."""
    frames = int(getattr(image, "n_frames", 1))
    if frames > 1 and image.format != "MPO":
        raise FormatError(
            f"was opened from a file of {frames} pages or frames; give a copy of the frame that is meant: "
            "image.seek(0), then image.copy()"
        )
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        layout = Layout.of(tags.get)
        layout.check()
        loses_bits = layout.bits[0] > 8 and not image.mode.startswith("I;16")
        if not layout.suits_pillow or layout.undeclared or loses_bits:
            raise FormatError("is a TIFF that Pillow does not decode rightly; give its path")
    if keeps_high_bytes(image):
        raise FormatError("has 16-bit colours, of which Pillow keeps 8 bits; give its path, or an array of uint16")


def _interpreted(decoded: Decoded, settings: InputSettings, source: str) -> RgbImage:
    try:
        image = interpret(decoded, settings)
    except FormatError as error:
        raise ImageError(f"{source} {error}") from None
    return image if image.doubt is None else replace(image, doubt=f"{source} {image.doubt}")
