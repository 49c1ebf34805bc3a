"""Pixels on a GPU: uint8 images become what the networks see, with the overhang around them, in one launch.

    out[y, x, c] = image[y − o, x − o, c] · 1/(255·std[c]) − mean[c]/std[c],    0 (the mean colour) in the overhang o

Reference: `GlanceModel.from_uint8` and `padded`, by way of `tests/test_pipeline_triton.py`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def normalise_kernel(
    images, scale, shift, out,
    height, width, total,
    OVERHANG: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """uint8 [H, W, C] of each image -> [H + 2o, W + 2o, C]; `total` values an image."""
    image = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    wide = width + 2 * OVERHANG
    channel, x, y = at % CHANNELS, at // CHANNELS % wide - OVERHANG, at // CHANNELS // wide - OVERHANG
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    pixel = images + image * height * width * CHANNELS + (y * width + x) * CHANNELS + channel
    value = tl.load(pixel, inside, 0).to(tl.float32) * tl.load(scale + channel) - tl.load(shift + channel)
    value = tl.where(inside, value, 0.0)
    tl.store(out + image * total + at, value.to(out.dtype.element_ty), at < total)


def normalise(images: Tensor, scale: Tensor, shift: Tensor, overhang: int, dtype: torch.dtype) -> Tensor:
    """uint8 [B, H, W, C] in 0..255 -> `dtype` [B, H + 2·overhang, W + 2·overhang, C].

    `scale`, `shift`: 1/(255·std) and mean/std, float32 [C].
    """
    batch, height, width, channels = images.shape
    high, wide = height + 2 * overhang, width + 2 * overhang
    out = torch.empty(batch, high, wide, channels, dtype=dtype, device=images.device)
    total = high * wide * channels
    normalise_kernel[(triton.cdiv(total, BLOCK), batch)](
        images, scale, shift, out, height, width, total,
        OVERHANG=overhang, CHANNELS=channels, BLOCK=BLOCK,
    )  # fmt: skip
    return out
