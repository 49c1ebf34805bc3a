"""Max pooling with a mask: formula, masked reference, and the same on the windows of a plan.

Formula (M: 1 where a cell is valid, 0 in the hole; size x size window):

    x' = max(X ⊙ M),    M' = max(M)

Invalid cells hold 0, as partial convolutions leave them; a pooled cell is valid if any of its cells is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def max_pool_reference(x: Tensor, mask: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Pool images and their mask: x [B, C, H, W], mask [B or 1, 1, H, W] -> x', M'."""
    return F.max_pool2d(x * mask, size), F.max_pool2d(mask, size)


def max_pool_windows(windows: Tensor, channels: int, out: Tensor | None = None) -> Tensor:
    """Pool gathered windows [n, size² * C] -> [n, C]; with `out` [n, C] there, without gradients."""
    cells = windows.view(len(windows), -1, channels)
    return cells.amax(dim=1) if out is None else torch.amax(cells, dim=1, out=out)
