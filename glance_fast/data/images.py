"""Images from files, arrays and PIL, converted to RGB pixels, uint8 [H, W, 3]."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from glance_fast.data.resizing import letterbox_window, reflect_indices
from glance_fast.errors import ImageError

Pixels = NDArray[np.uint8]
ImageInput = np.ndarray | Image.Image | str | os.PathLike[str]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

# Pixels of the largest file that is decoded: 134 megapixels take 403 MB as RGB.
MAX_PIXELS = 2**27


def is_tensor(image: object) -> bool:
    """Whether `image` is a torch tensor. PyTorch is not imported: without it there are no tensors."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(image, torch.Tensor)


def as_rgb(image: ImageInput, source: str = "image") -> Pixels:
    """An image of any accepted kind as uint8 [H, W, 3].

    Arrays are [H, W], [H, W, 1] or [H, W, 3]: uint8, uint16 (high byte taken), bool, or floating in 0..1.
    A PIL image is converted without rotation, its transparency composited over black; a path is read by `read_image`.
    Raises ImageError, naming `source`, for anything else. An alpha channel of an array is refused, never dropped.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        return _from_pil(image, source)
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
    grey_or_rgb = _as_uint8(image, source)
    return np.ascontiguousarray(np.broadcast_to(grey_or_rgb, (*image.shape[:2], 3)))


def read_image(path: Path) -> Pixels:
    """Read an image file as uint8 [H, W, 3], rotated as its EXIF data says; raises ImageError naming the file.

    Transparency is composited over black; 16-bit grey files keep their high byte.
    """
    return _from_pil(_open(path), str(path))


def read_gray(path: Path) -> Pixels:
    """Read an image file as uint8 [H, W]: the luminance; raises ImageError naming the file."""
    return _converted(_open(path), "L", str(path))


def resize(image: Pixels, size: tuple[int, int], how: str = "stretch") -> Pixels:
    """Antialiased bilinear resize of [H, W, 3] to `size` (height, width); an image of that size is returned as it is.

    `how` is "stretch" or "letterbox": the second keeps the aspect ratio and fills the margins by reflection.
    """
    if image.shape[:2] == size:
        return image
    rows, cols = letterbox_window((image.shape[0], image.shape[1]), size, how)
    resized = np.asarray(Image.fromarray(image).resize((len(cols), len(rows)), Image.Resampling.BILINEAR))
    if resized.shape[:2] == size:
        return resized
    return resized[np.ix_(reflect_indices(rows, size[0]), reflect_indices(cols, size[1]))]


def _as_uint8(image: np.ndarray, source: str) -> Pixels:
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:
        return (image >> 8).astype(np.uint8)
    if image.dtype == np.bool_:
        return image.astype(np.uint8) * np.uint8(255)
    if not np.issubdtype(image.dtype, np.floating):
        raise ImageError(f"{source}: pixels of {image.dtype}; give uint8, uint16, bool, or floating point in 0..1")
    if not np.isfinite(image).all():
        raise ImageError(f"{source}: NaN or infinite pixels; give finite values in 0..1")
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 1:
        raise ImageError(f"{source}: floating pixels from {low:g} to {high:g}; bring them to 0..1")
    pixels: Pixels = np.rint(image * 255).astype(np.uint8)
    return pixels


def _open(path: Path) -> Image.Image:
    """The decoded image, rotated by its EXIF data. A truncated file is an error: it would score as a defect."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ImageError(
            f"{path} is not read: this program lets Pillow fill truncated files with grey; set "
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES to False"
        )
    try:
        with warnings.catch_warnings():
            # MAX_PIXELS is checked below, on the header alone.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ImageError(
                        f"{path} has {image.width}x{image.height} pixels; files of up to {MAX_PIXELS:,} are read: "
                        "cut it into tiles"
                    )
                image.load()
                return ImageOps.exif_transpose(image)
    except ImageError:
        raise
    except Image.DecompressionBombError:  # far above MAX_PIXELS, Pillow itself refuses the header
        raise ImageError(
            f"{path} is too large; files of up to {MAX_PIXELS:,} pixels are read: cut it into tiles"
        ) from None
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist; check the path") from None
    except IsADirectoryError:
        raise ImageError(f"{path} is a folder, not an image; name a file in it") from None
    except UnidentifiedImageError:
        empty = path.stat().st_size == 0
        fault = "is empty" if empty else "is not an image of a kind that can be read"
        raise ImageError(f"{path} {fault}; give {', '.join(sorted(IMAGE_SUFFIXES))}") from None
    except Exception as error:  # decoders raise errors of many classes: OSError, SyntaxError, struct.error, ...
        raise ImageError(f"{path} cannot be read: {error}; save it again, or take it out") from error


def _from_pil(image: Image.Image, source: str) -> Pixels:
    if image.width == 0 or image.height == 0:
        raise ImageError(f"{source}: the image is empty, {image.width}x{image.height} pixels")
    return _converted(image, "RGB", source)


def _converted(image: Image.Image, mode: str, source: str) -> Pixels:
    if image.mode in ("F", "I"):
        raise ImageError(f"{source}: 32-bit pixels have no fixed range here; save it with 8 or 16 bits")
    try:
        return np.array(_with_8_bits(image).convert(mode))
    except Exception as error:  # a lazy PIL image is decoded only here, and Pillow cannot convert every mode
        raise ImageError(f"{source} cannot be read: {error}; save it again as RGB") from error


def _with_8_bits(image: Image.Image) -> Image.Image:
    """The image in a mode that Pillow converts without clipping, its transparency composited over black."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "black"), rgba)
    return image
