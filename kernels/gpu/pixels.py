"""What kernels read of uint8 images: pixels, normalised on their way, and windows of them times a convolution's weight.

scale · p − shift,    scale = 1/(255·std),  shift = mean/std,    0 (the mean colour) beyond the image
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

# Values of a window that a program takes at a time, at most.
MOST_K = 32


@triton.jit
def normalised(images, scale, shift, cell, k, inside, CHANNELS: tl.constexpr):
    """Pixel `cell` of an image, channel `k % CHANNELS`, float32; 0 where it is not `inside`."""
    channel = k % CHANNELS
    pixel = tl.load(images + cell * CHANNELS + channel, inside, 0)
    return tl.where(inside, pixel.to(tl.float32) * tl.load(scale + channel) - tl.load(shift + channel), 0.0)


@triton.jit
def convolved(
    images, scale, shift, weight, y, x, live, n, height, width,
    CHANNELS: tl.constexpr, COUT: tl.constexpr, KERNEL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The sums of an image's windows that begin at rows `y` and columns `x`, channels `n`, [BLOCK_M, BLOCK_N]."""
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for low in tl.range(0, KERNEL * KERNEL * CHANNELS, BLOCK_K):
        k = low + tl.arange(0, BLOCK_K)
        row = y[:, None] + (k // CHANNELS // KERNEL)[None]
        col = x[:, None] + (k // CHANNELS % KERNEL)[None]
        there = k < KERNEL * KERNEL * CHANNELS
        inside = there[None] & live[:, None] & (row >= 0) & (row < height) & (col >= 0) & (col < width)
        a = normalised(images, scale, shift, row * width + col, k[None], inside, CHANNELS)
        w = tl.load(weight + k[:, None] * COUT + n[None], there[:, None] & (n < COUT)[None], 0.0)
        acc = tl.dot(a.to(weight.dtype.element_ty), w, acc, input_precision=PRECISION)
    return acc


def window_values(kernel: int, channels: int) -> int:
    """Values of a window that a program takes at a time: a power of two that the tensor cores take."""
    return max(16, min(MOST_K, int(triton.next_power_of_2(kernel * kernel * channels))))


def warps(dtype: torch.dtype, usual: int) -> int:
    """Warps of a program that multiplies pixels by weights of `dtype`.

    On sm_100 Triton 3.7 takes 8-bit values that became float32 for ones that tf32 is good enough for, whatever
    precision is asked for (triton-lang/triton#10176), but only on 4 or 8 warps.
    """
    return 16 if dtype == torch.float32 else usual
