"""An image as the networks need it: checked, RGB, at the model's size, and the window that it fills there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glance_fast.config import ModelConfig
from glance_fast.data.images import as_rgb, is_tensor, resize_rgb
from glance_fast.data.meaning import InputSettings, RgbImage
from glance_fast.data.resizing import letterbox_window
from glance_fast.errors import ImageError

log = logging.getLogger("glance_fast")


@dataclass(frozen=True)
class Prepared:
    """An image at the model's size.

    `input`: uint8 [H, W, 3] at the model's size, an array or a tensor. `size`: height and width of the original image.
    `window`: rows and columns of `input` that show the image. `device`: of an image that was a tensor, else None.
    """

    input: Any
    size: tuple[int, int]
    window: tuple[range, range]
    device: Any = None


def image_list(images: Any) -> Sequence[Any] | None:
    """The images of a list, a tuple, or an array or tensor of four axes; None for a single image."""
    if isinstance(images, (list, tuple)):
        return images
    return list(images) if (isinstance(images, np.ndarray) or is_tensor(images)) and images.ndim == 4 else None


def prepare(
    image: Any, config: ModelConfig, keep_tensor: bool = False, settings: InputSettings | None = None
) -> Prepared:
    """Check any accepted image and resize it to the model's size; raises ImageError.

    A tensor is resized on its device; it stays a tensor only with `keep_tensor`. `settings` are those of the model by
    default: then arrays and tensors are RGB. Logs a warning where the range of samples is in doubt.
    """
    rgb = _rgb(image, settings or InputSettings.of(config))
    if (fault := too_small(rgb.size, config.patch)) is not None:
        raise ImageError(f"{fault}; give a larger image or train a model with a smaller patch")
    if rgb.doubt is not None:
        log.warning("%s", rgb.doubt)
    window = letterbox_window(rgb.size, config.image_size, config.resize)
    if not is_tensor(rgb.values):
        return Prepared(resize_rgb(rgb, config.image_size, config.resize), rgb.size, window)
    from glance_fast.data.tensors import resize_tensor

    resized = resize_tensor(rgb.values, config.image_size, config.resize)
    return Prepared(resized if keep_tensor else resized.cpu().numpy(), rgb.size, window, rgb.values.device)


def _rgb(image: Any, settings: InputSettings) -> RgbImage:
    if not is_tensor(image):
        return as_rgb(image, settings)
    from glance_fast.data.tensors import tensor_as_rgb

    return RgbImage(tensor_as_rgb(image, settings.channels))


def too_small(size: tuple[int, int], patch: int) -> str | None:
    """What is wrong with an image of (height, width) that holds no patch; None for one that does."""
    if min(size) >= patch:
        return None
    return f"an image of {size[0]}x{size[1]} pixels is smaller than one {patch}x{patch} patch"
