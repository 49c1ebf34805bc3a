"""Local-Net's first convolution on a GPU, from uint8 pixels: normalisation, overhang, convolution and clipping at once.

Formula, for normalised pixels x, zero beyond the image by `overhang` on each side, k x k windows `stride` apart, valid:

    out = clip( W * x + b, 0, most )

Reference: `PatchEncoder.stem` of a model's normalised padded images, by way of
`tests/test_pipeline_triton.py`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from glance_fast.kernels.gpu.pixels import convolved, warps, window_values

# Places of the result that a program takes, and channels.
BLOCK_M, BLOCK_N = 64, 32
WARPS = 4


@triton.jit
def pixel_conv_kernel(
    images, scale, shift, weight, bias, out,
    height, width, high, wide,
    OVERHANG: tl.constexpr, CHANNELS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, COUT: tl.constexpr,
    MOST: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """uint8 [H, W, C] of each image -> [high, wide, COUT]; weight [KERNEL * KERNEL * C, COUT]."""
    image = tl.program_id(2).to(tl.int64)
    images += image * height * width * CHANNELS
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    live = m < high * wide
    acc = convolved(
        images,
        scale,
        shift,
        weight,
        m // wide * STRIDE - OVERHANG,
        m % wide * STRIDE - OVERHANG,
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
    at = image * high * wide * COUT + m[:, None] * COUT + n[None]
    stored = live[:, None] & (n < COUT)[None]
    tl.store(out + at, tl.minimum(tl.maximum(acc, 0.0), MOST).to(out.dtype.element_ty), stored)


def pixel_settings(
    weight: tuple[int, ...], dtype: torch.dtype, stride: int, overhang: int, most: float
) -> dict[str, Any]:
    """All that a launch takes by name, for a weight [k, k, C, O] of `dtype`."""
    kernel, _, channels, after = weight
    sizes = {"CHANNELS": channels, "KERNEL": kernel, "COUT": after, "STRIDE": stride, "OVERHANG": overhang}
    blocks = {"BLOCK_M": BLOCK_M, "BLOCK_N": BLOCK_N, "BLOCK_K": window_values(kernel, channels)}
    return {**sizes, "MOST": most, **blocks, "PRECISION": "ieee", "num_warps": warps(dtype, WARPS)}


def pixel_conv(
    images: Tensor, pixels: Tensor, weight: Tensor, bias: Tensor, sides: tuple[int, int], most: float
) -> Tensor:
    """uint8 [B, H, W, C] in 0..255 -> weight's dtype [B, h, w, O], channels last.

    `pixels` float32 [2, C]: 1/(255·std) and mean/std. weight [k, k, C, O], bias [O] float32. `sides`: stride, overhang.
    """
    stride, overhang = sides
    batch, height, width, _ = images.shape
    kernel, _, _, after = weight.shape
    high, wide = ((side + 2 * overhang - kernel) // stride + 1 for side in (height, width))
    out = torch.empty(batch, high, wide, after, dtype=weight.dtype, device=images.device)
    settings = pixel_settings(tuple(weight.shape), weight.dtype, stride, overhang, most)
    pixel_conv_kernel[(triton.cdiv(high * wide, BLOCK_M), triton.cdiv(after, BLOCK_N), batch)](
        images, pixels[0], pixels[1], weight, bias, out, height, width, high, wide,
        **settings,
    )  # fmt: skip
    return out
