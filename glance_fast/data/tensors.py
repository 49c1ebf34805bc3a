"""Images that are torch tensors: checked and resized on their own device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from glance_fast.data.meaning import FLOAT_ERROR
from glance_fast.data.resizing import letterbox_window, reflect_indices
from glance_fast.errors import ImageError


def tensor_as_rgb(image: Tensor, channels: str = "rgb") -> Tensor:
    """Any accepted tensor as uint8 [H, W, 3], RGB; raises ImageError for all others.

    Accepted are [H, W], [1 or 3, H, W] and [H, W, 1 or 3], uint8 or floating in 0..1, their channels in the order
    `channels`: "rgb" or "bgr".
    """
    image = image.detach()
    if image.dim() == 3 and image.shape[0] in (1, 3):
        image = image.permute(1, 2, 0)
    if image.dim() == 2:
        image = image[:, :, None]
    if image.dim() != 3 or image.shape[2] not in (1, 3) or image.numel() == 0:
        raise ImageError(f"a tensor of shape {tuple(image.shape)} is no image; give [H, W], [3, H, W] or [H, W, 3]")
    if image.dtype != torch.uint8:
        image = _from_float(image)
    if channels == "bgr":
        image = image.flip(2)
    return image.expand(-1, -1, 3)


def _from_float(image: Tensor) -> Tensor:
    if not image.dtype.is_floating_point:
        raise ImageError(f"a tensor of {image.dtype} is no image; give torch.uint8, or floating point in 0..1")
    if not bool(torch.isfinite(image).all()):
        raise ImageError("the tensor holds NaN or infinite pixels; give finite values in 0..1")
    low, high = (float(value) for value in image.aminmax())
    if low < -FLOAT_ERROR or high > 1 + FLOAT_ERROR:
        raise ImageError(f"a floating tensor must lie in 0..1, got {low:g}..{high:g}; divide by the largest value")
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


def resize_tensor(image: Tensor, size: tuple[int, int], how: str = "stretch") -> Tensor:
    """`images.resize` for a tensor uint8 [H, W, 3]; the result is within one grey level of Pillow's."""
    if tuple(image.shape[:2]) == size:
        return image
    rows, cols = letterbox_window((image.shape[0], image.shape[1]), size, how)
    planes = image.permute(2, 0, 1)[None].float()
    scaled = F.interpolate(planes, size=(len(rows), len(cols)), mode="bilinear", align_corners=False, antialias=True)
    resized = scaled[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8)
    if resized.shape[:2] == size:
        return resized
    row_indices, col_indices = (
        torch.from_numpy(reflect_indices(inside, side)).to(image.device)
        for inside, side in zip((rows, cols), size, strict=True)
    )
    return resized[row_indices][:, col_indices]


def resample(grid: Any, rows: NDArray[np.float32], cols: NDArray[np.float32], device: torch.device) -> Tensor:
    """The map [H, W] of a grid of scores [gy, gx], array or tensor, on a device: `rows @ grid @ cols.T`."""
    row_weights, scores, col_weights = (torch.as_tensor(factor).to(device) for factor in (rows, grid, cols))
    return row_weights @ scores @ col_weights.mT
