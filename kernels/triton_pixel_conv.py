"""A network's first convolution on a GPU, from uint8 pixels: normalisation, overhang, convolution and clipping at once.

Formula, for pixels p in 0..255, zero beyond the image by `overhang` on each side, k x k windows `stride` apart, valid:

    out = clip( W * (scale · p − shift) + b, 0, most ),      scale = 1/(255 · std),  shift = mean/std

Reference: `TrunkNet.stem_of` of a model's normalised padded images, by way of `tests/test_pipeline_triton.py`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Places of the result that a program takes, and channels.
BLOCK_M, BLOCK_N = 64, 32


@triton.jit
def pixel_conv_kernel(
    images, scale, shift, weight, bias, out,
    height, width, high, wide,
    OVERHANG: tl.constexpr, CHANNELS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, COUT: tl.constexpr,
    MOST: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """uint8 [H, W, C] of each image -> [high, wide, COUT]; weight [KERNEL * KERNEL * C, COUT]."""
    image = tl.program_id(2).to(tl.int64)
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    taps: tl.constexpr = KERNEL * KERNEL * CHANNELS
    channel, tx, ty = k % CHANNELS, k // CHANNELS % KERNEL, k // CHANNELS // KERNEL
    y = (m // wide * STRIDE - OVERHANG)[:, None] + ty[None]
    x = (m % wide * STRIDE - OVERHANG)[:, None] + tx[None]
    inside = (k < taps)[None] & (m < high * wide)[:, None] & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    pixel = tl.load(images + image * height * width * CHANNELS + (y * width + x) * CHANNELS + channel[None], inside, 0)
    value = pixel.to(tl.float32) * tl.load(scale + channel)[None] - tl.load(shift + channel)[None]
    value = tl.where(inside, value, 0.0).to(weight.dtype.element_ty)
    kept = (k < taps)[:, None] & (n < COUT)[None]
    acc = tl.dot(value, tl.load(weight + k[:, None] * COUT + n[None], kept, 0.0), input_precision=PRECISION)
    acc += tl.load(bias + n, n < COUT, 0.0)[None]
    stored = (m < high * wide)[:, None] & (n < COUT)[None]
    at = image * high * wide * COUT + m[:, None] * COUT + n[None]
    tl.store(out + at, tl.minimum(tl.maximum(acc, 0.0), MOST).to(out.dtype.element_ty), stored)


def pixel_constants(weight: tuple[int, ...], stride: int, overhang: int, most: float) -> dict[str, int | float | str]:
    """What the kernel is compiled for, for a weight [k, k, C, O]."""
    kernel, _, channels, after = weight
    sizes = {"CHANNELS": channels, "KERNEL": kernel, "COUT": after, "STRIDE": stride, "OVERHANG": overhang}
    block_k = max(16, triton.next_power_of_2(kernel * kernel * channels))
    return {**sizes, "MOST": most, "BLOCK_M": BLOCK_M, "BLOCK_N": BLOCK_N, "BLOCK_K": block_k, "PRECISION": "ieee"}


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
    constants = pixel_constants(tuple(weight.shape), stride, overhang, most)
    pixel_conv_kernel[(triton.cdiv(high * wide, BLOCK_M), triton.cdiv(after, BLOCK_N), batch)](
        images, pixels[0], pixels[1], weight, bias, out, height, width, high, wide, **constants,
    )  # fmt: skip
    return out
