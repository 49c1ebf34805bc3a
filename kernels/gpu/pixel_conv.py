"""Local-Net's first convolution on a GPU, from uint8 pixels: normalisation, padding, convolution and clipping at once.

Formula, for normalised pixels x, zero beyond the image by `padding` on each side, k x k windows `stride` apart, valid:

    out = clip( W * x + b, 0, maximum )

Reference: `PatchEncoder.stem` of a model's normalised padded images; tested against it in
`tests/dense/test_triton_pipeline.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from glance_fast.kernels.gpu.pixels import convolve_pixels, warps_for, window_chunk
from glance_fast.kernels.reference.partial_conv import WeightShape

# Cells of the result per program, and channels.
CELL_BLOCK, CHANNEL_BLOCK = 64, 32
WARPS = 4


@dataclass(frozen=True)
class PixelConvGeometry:
    """Stride, padding in pixels on each side, and the maximum that results are clipped to (may be infinite)."""

    stride: int
    padding: int
    maximum: float


@triton.jit
def pixel_conv_kernel(
    images, scale, shift, weight, bias, out,
    height, width, out_height, out_width,
    PADDING: tl.constexpr, CHANNELS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, COUT: tl.constexpr,
    MAXIMUM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """uint8 [H, W, C] of each image -> [out_height, out_width, COUT]; weight [KERNEL * KERNEL * C, COUT]."""
    image = tl.program_id(2).to(tl.int64)
    images += image * height * width * CHANNELS
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    live = m < out_height * out_width
    acc = convolve_pixels(
        images,
        scale,
        shift,
        weight,
        m // out_width * STRIDE - PADDING,
        m % out_width * STRIDE - PADDING,
        live,
        n,
        height,
        width,
        CHANNELS,
        COUT,
        KERNEL,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
        PRECISION,
    )
    acc += tl.load(bias + n, n < COUT, 0.0)[None]
    at = image * out_height * out_width * COUT + m[:, None] * COUT + n[None]
    stored = live[:, None] & (n < COUT)[None]
    tl.store(out + at, tl.minimum(tl.maximum(acc, 0.0), MAXIMUM).to(out.dtype.element_ty), stored)


def pixel_settings(shape: WeightShape, dtype: torch.dtype, geometry: PixelConvGeometry) -> dict[str, Any]:
    """Keyword arguments of a launch, for weights [k, k, C, O] of `dtype`."""
    kernel, _, channels, channels_out = shape
    sizes = {"CHANNELS": channels, "KERNEL": kernel, "COUT": channels_out}
    sides = {"STRIDE": geometry.stride, "PADDING": geometry.padding, "MAXIMUM": geometry.maximum}
    blocks = {"BLOCK_M": CELL_BLOCK, "BLOCK_N": CHANNEL_BLOCK, "BLOCK_K": window_chunk(kernel, channels)}
    return {**sizes, **sides, **blocks, "PRECISION": "ieee", "num_warps": warps_for(dtype, WARPS)}


def pixel_conv(images: Tensor, pixels: Tensor, weight: Tensor, bias: Tensor, geometry: PixelConvGeometry) -> Tensor:
    """uint8 [B, H, W, C] in 0..255 -> weight's dtype [B, h, w, O], channels last.

    `pixels` float32 [2, C]: 1/(255·std) and mean/std. weight [k, k, C, O], bias [O] float32.
    """
    batch, height, width, _ = images.shape
    channels_out = weight.shape[3]
    out_height, out_width = (conv_size(side, weight.shape[0], geometry) for side in (height, width))
    out = torch.empty(batch, out_height, out_width, channels_out, dtype=weight.dtype, device=images.device)
    settings = pixel_settings(WeightShape(*weight.shape), weight.dtype, geometry)
    grid = triton.cdiv(out_height * out_width, CELL_BLOCK), triton.cdiv(channels_out, CHANNEL_BLOCK), batch
    pixel_conv_kernel[grid](
        images, pixels[0], pixels[1], weight, bias, out, height, width, out_height, out_width,
        **settings,
    )  # fmt: skip
    return out


def conv_size(side: int, kernel: int, geometry: PixelConvGeometry) -> int:
    """Cells of the result along an axis of `side` pixels."""
    return (side + 2 * geometry.padding - kernel) // geometry.stride + 1
