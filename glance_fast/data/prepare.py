"""An image as the networks need it: checked, RGB, at the model's size, with where it lies in that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from glance_fast.config import ModelConfig
from glance_fast.data.images import as_rgb, is_tensor, resize
from glance_fast.data.resizing import letterbox_window
from glance_fast.errors import ImageError


@dataclass(frozen=True)
class Prepared:
    """An image at the model's size.

    `input`: uint8 [H, W, 3] of the model's size, an array or a tensor. `size`: height and width of the image as it was
    given. `window`: rows and columns of `input` that show it. `device`: where the image was a tensor, its device.
    """

    input: Any
    size: tuple[int, int]
    window: tuple[range, range]
    device: Any = None


def rgb(image: Any) -> Any:
    """Any accepted image as uint8 [H, W, 3], a tensor where it is one; raises ImageError."""
    if not is_tensor(image):
        return as_rgb(image)
    from glance_fast.data.tensors import tensor_as_rgb

    return tensor_as_rgb(image)


def prepare(image: Any, config: ModelConfig, keep_tensor: bool = False) -> Prepared:
    """Check any accepted image and resize it to the model's size; raises ImageError.

    A tensor is resized on its device; it stays a tensor only if `keep_tensor`.
    """
    pixels = rgb(image)
    size = (pixels.shape[0], pixels.shape[1])
    _check_size(size, config.patch)
    window = letterbox_window(size, config.image_size, config.resize)
    if not is_tensor(pixels):
        return Prepared(resize(pixels, config.image_size, config.resize), size, window)
    from glance_fast.data.tensors import resize_tensor

    resized = resize_tensor(pixels, config.image_size, config.resize)
    return Prepared(resized if keep_tensor else resized.cpu().numpy(), size, window, pixels.device)


def _check_size(size: tuple[int, int], patch: int) -> None:
    if min(size) < patch:
        raise ImageError(
            f"an image of {size[0]}x{size[1]} pixels is smaller than one {patch}x{patch} patch; "
            "give a larger image or train a model with a smaller patch"
        )
