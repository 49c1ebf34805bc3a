"""What kernels read of uint8 images: pixels, normalised on their way.

    scale · p − shift,    scale = 1/(255·std),  shift = mean/std,    0 (the mean colour) beyond the image
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def normalised(images, scale, shift, cell, k, inside, CHANNELS: tl.constexpr):
    """Pixel `cell` of an image, channel `k % CHANNELS`, float32; 0 where it is not `inside`."""
    channel = k % CHANNELS
    pixel = tl.load(images + cell * CHANNELS + channel, inside, 0)
    return tl.where(inside, pixel.to(tl.float32) * tl.load(scale + channel) - tl.load(shift + channel), 0.0)


def warps(dtype: torch.dtype, usual: int) -> int:
    """Warps of a program that multiplies pixels by weights of `dtype`.

    On sm_100 Triton 3.7 takes 8-bit values that became float32 for ones that tf32 is good enough for, whatever
    precision is asked for (triton-lang/triton#10176), but only on 4 or 8 warps.
    """
    return 16 if dtype == torch.float32 else usual
