"""Partial convolution: formula, masked reference, and the same on the windows of a plan.

Formula (M: 1 where a cell is valid, 0 in the hole; zero padding counts as hole; k x k window):

    x' = relu( (W * (X ⊙ M)) · k²/sum(M) + b )   where sum(M) > 0, else 0
    M' = 1                                        where sum(M) > 0, else 0

On a plan's windows W * (X ⊙ M) is the sum without a hole, shared by all holes, plus W at the touched taps times the
changes there: a window that a hole touches at two of its nine taps costs two taps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def partial_conv_reference(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Apply the formula to images: x [B, C, H, W], mask [B or 1, 1, H, W], weight [O, C, k, k] -> x', M'."""
    kernel = weight.shape[-1]
    ones = torch.ones(1, 1, kernel, kernel, dtype=mask.dtype, device=mask.device)
    valid = F.conv2d(mask, ones, padding=kernel // 2)
    alive = (valid > 0).to(x.dtype)
    y = F.conv2d(x * mask, weight, padding=kernel // 2)
    y = y * (kernel**2 / valid.clamp(min=1)) + bias[:, None, None]
    return F.relu(y) * alive, alive


class WeightShape(NamedTuple):
    """The shape of `tap_weights`."""

    kernel: int
    kernel_width: int
    channels_in: int
    channels_out: int


def tap_weights(weight: Tensor) -> Tensor:
    """Permute a convolution's weight [O, C, k, k] to [k, k, C, O]: the weights of taps are a matrix [taps * C, O]."""
    return weight.permute(2, 3, 1, 0).contiguous()


def renormalise(sums: Tensor, scale: Tensor, bias: Tensor, out: Tensor | None = None) -> Tensor:
    """Finish the formula: sums [n, O] = W * (X ⊙ M), scale [n, 1] = k²/sum(M), bias [O] -> [n, O].

    Every row must be alive (sum(M) > 0). With `out` [n, O], which may be `sums`, without gradients.
    """
    if out is None:
        return F.relu(torch.addcmul(bias, sums, scale))
    return torch.addcmul(bias, sums, scale, out=out).relu_()


def changes(values: Tensor, base_index: Tensor, out: Tensor | None = None) -> Tensor:
    """The table of changes: values `base | entries | zero` [N, C] -> `entries − base | − base | zero` [N, C].

    base_index int32 [entries]: the base cell of each entry. A dead cell changes from its base value to 0.
    """
    entries = len(base_index)
    base, touched = values[: len(values) - 1 - entries], values[len(values) - 1 - entries : -1]
    if out is None:
        return torch.cat([touched - F.embedding(base_index, base), -base, values[-1:]])
    torch.index_select(base, 0, base_index, out=out[:entries])
    torch.sub(touched, out[:entries], out=out[:entries])
    torch.neg(base, out=out[entries:-1])
    out[-1] = 0
    return out


def add_changes(sums: Tensor, windows: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    """`W * (X ⊙ M)` of windows that holes touch: the sum without the hole, plus the changes at touched taps.

    sums [n, O]: without the hole. windows [n, taps * C]: changes at the touched taps; weight [taps * C, O]: theirs.
    With `out` [n, O], which may be `sums`, without gradients.
    """
    return torch.addmm(sums, windows, weight) if out is None else torch.addmm(sums, windows, weight, out=out)
