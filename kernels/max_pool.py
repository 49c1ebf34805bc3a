"""Max pooling with a mask: the masked reference, and the form that runs on a plan's rows.

Invalid cells hold 0, as partial convolutions leave them; a pooled cell is valid if any of its cells is.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def max_pool_reference(x: Tensor, mask: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Pool whole images and their mask: x [B, C, H, W], mask [B or 1, 1, H, W] -> x', M'."""
    return F.max_pool2d(x * mask, size), F.max_pool2d(mask, size)


def max_pool_rows(table: Tensor, sources: Tensor) -> Tensor:
    """Pool rows that name their own windows: table [N, C], sources int32 [n, size²] -> [n, C]."""
    return F.embedding(sources, table).amax(dim=1)
