"""What the Triton kernels read of a plan: per-axis tables of int32, and which tile of entries a program takes.

A step's keys are described for each axis by two tables:

- `keys` [keys, KEY_FIELDS]: the axis's part of the base cell's number (row * width, or column); number of cells of
  the key's window inside the image; number of dead cells among them.
- `taps` [keys, k, TAP_FIELDS]: of the key below that a tap reads: its band's part of the block's number, or −1 where
  the tap is untouched or outside; its position in the band; whether it is dead; its cell's part of the cell's number;
  its band's length; its own number among the keys.

`block_offsets` [row bands * column bands] is the first entry of each block below. `tiles` [tiles, TILE_FIELDS] cuts
this level's blocks into pieces, one per program: the tile's first entry in its block; the block's length; the block's
first entry in the level; its first row key; its first column key; its number of column keys; first and one past the
last row tap that its windows read; the same of the column taps.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

# Entries per program where no other number was measured to be faster.
ENTRY_TILE = 64
# In the order in which kernels take them.
TABLES = ("tiles", "row_taps", "col_taps", "row_keys", "col_keys", "block_offsets")
TILE_FIELDS, TAP_FIELDS, KEY_FIELDS = 10, 6, 3


@dataclass(frozen=True)
class LevelTables:
    """The tables of one step on a device, for tiles of `tile_size` entries of the level's `entries`."""

    entries: int
    tile_size: int
    tiles: Tensor
    row_taps: Tensor
    col_taps: Tensor
    row_keys: Tensor
    col_keys: Tensor
    block_offsets: Tensor

    def tensors(self) -> list[Tensor]:
        """All of them, in the order of TABLES."""
        return [getattr(self, name) for name in TABLES]
