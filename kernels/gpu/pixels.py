"""Device functions that read uint8 images: normalised pixels, and windows of them times a convolution's weight.

x = scale · p − shift,    scale = 1/(255·std),  shift = mean/std,    0 (the mean colour) beyond the image
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

# Values of a window that a program multiplies at a time, at most.
MAX_WINDOW_CHUNK = 32


@triton.jit
def load_normalised(images, scale, shift, cell, k, inside, CHANNELS: tl.constexpr):
    """Pixel `cell` of an image, channel `k % CHANNELS`, float32; 0 where it is not `inside`."""
    channel = k % CHANNELS
    pixel = tl.load(images + cell * CHANNELS + channel, inside, 0)
    return tl.where(inside, pixel.to(tl.float32) * tl.load(scale + channel) - tl.load(shift + channel), 0.0)


@triton.jit
def convolve_pixels(
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
        in_window = k < KERNEL * KERNEL * CHANNELS
        inside = in_window[None] & live[:, None] & (row >= 0) & (row < height) & (col >= 0) & (col < width)
        a = load_normalised(images, scale, shift, row * width + col, k[None], inside, CHANNELS)
        w = tl.load(weight + k[:, None] * COUT + n[None], in_window[:, None] & (n < COUT)[None], 0.0)
        acc = tl.dot(a.to(weight.dtype.element_ty), w, acc, input_precision=PRECISION)
    return acc


def window_chunk(kernel: int, channels: int) -> int:
    """Values of a window that a program multiplies at a time: a power of two that the tensor cores take."""
    return max(16, min(MAX_WINDOW_CHUNK, int(triton.next_power_of_2(kernel * kernel * channels))))


def warps_for(dtype: torch.dtype, default: int) -> int:
    """Warps per program that multiplies pixels by weights of `dtype`: 16 in float32, else `default`.

    On sm_100 Triton 3.7 multiplies float32 values that were 8-bit integers in tf32, whatever precision is
    requested (triton-lang/triton#10176), but only on 4 or 8 warps.
    """
    return 16 if dtype == torch.float32 else default
