"""What the Triton kernels read of a plan: per-axis tables of int32, and which tile of entries a program takes.

A step's keys are given for each axis by `own` [keys, 3] (the part of its cell's number, cells of its window inside the
image, dead ones among them) and `taps` [keys, k, 6] (of the key below that a tap reads: its band's part of the block's
number, or −1 where the tap is untouched or outside; its place in the band; whether it is dead; the part of its cell's
number; its band's length; its own number among the keys). `first` [row bands * column bands] is the first entry of each
block below, `tiles` [tiles, 10] the pieces of this level's blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

# Entries that a program takes where nothing else was measured to be faster.
BLOCK = 64
# In the order in which kernels take them.
TABLES = ("tiles", "row_taps", "col_taps", "row_own", "col_own", "first")


@dataclass(frozen=True)
class LevelTables:
    """The tables of one step on a device, for tiles of `block` entries."""

    entries: int
    block: int
    tiles: Tensor
    row_taps: Tensor
    col_taps: Tensor
    row_own: Tensor
    col_own: Tensor
    first: Tensor

    def tensors(self) -> list[Tensor]:
        """All of them, in the order of TABLES."""
        return [getattr(self, name) for name in TABLES]
