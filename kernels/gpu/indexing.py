"""Where a program's entries are and what their taps read: arithmetic on the tables of `tables`."""

from __future__ import annotations

import triton
import triton.language as tl

from glance_fast.kernels.gpu import tables

# Number of fields of a tile, of a tap and of a key; below, which field is which.
TILE_FIELDS = tl.constexpr(tables.TILE_FIELDS)
TAP_FIELDS = tl.constexpr(tables.TAP_FIELDS)
KEY_FIELDS = tl.constexpr(tables.KEY_FIELDS)
TILE_START, TILE_BLOCK_LENGTH, TILE_BLOCK_ENTRY = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
TILE_ROW_KEY, TILE_COL_KEY, TILE_COL_COUNT = tl.constexpr(3), tl.constexpr(4), tl.constexpr(5)
TILE_ROW_TAP_START, TILE_ROW_TAP_STOP = tl.constexpr(6), tl.constexpr(7)
TILE_COL_TAP_START, TILE_COL_TAP_STOP = tl.constexpr(8), tl.constexpr(9)
TAP_BAND, TAP_POSITION, TAP_DEAD = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
TAP_CELL, TAP_BAND_LENGTH, TAP_KEY = tl.constexpr(3), tl.constexpr(4), tl.constexpr(5)
KEY_CELL, KEY_INSIDE, KEY_DEAD = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def load_entries(tile, BLOCK_M: tl.constexpr):
    """A tile's entries: numbers in the level, row keys, column keys, and which of the BLOCK_M lie in the block."""
    start, length = tl.load(tile + TILE_START), tl.load(tile + TILE_BLOCK_LENGTH)
    entry0 = tl.load(tile + TILE_BLOCK_ENTRY)
    row0, col0 = tl.load(tile + TILE_ROW_KEY), tl.load(tile + TILE_COL_KEY)
    cols = tl.load(tile + TILE_COL_COUNT)
    m = start + tl.arange(0, BLOCK_M)
    return entry0 + m, row0 + m // cols, col0 + m % cols, m < length


@triton.jit
def load_tap(taps, keys, tap, SIZE: tl.constexpr, live):
    """What a tap of `keys` reads along one axis: band (−1: untouched), position, deadness, cell, band's length."""
    at = taps + (keys * SIZE + tap) * TAP_FIELDS
    band, position = tl.load(at + TAP_BAND, live, -1), tl.load(at + TAP_POSITION, live, 0)
    dead = tl.load(at + TAP_DEAD, live, 0)
    return band, position, dead, tl.load(at + TAP_CELL, live, 0), tl.load(at + TAP_BAND_LENGTH, live, 0)


@triton.jit
def load_tap_key(taps, keys, tap, SIZE: tl.constexpr, live):
    """The number of the key below that a tap of `keys` reads along one axis."""
    return tl.load(taps + (keys * SIZE + tap) * TAP_FIELDS + TAP_KEY, live, 0)


@triton.jit
def load_base_index(row_keys, col_keys, row, col, live):
    """The base cell of each entry."""
    row_part = tl.load(row_keys + row * KEY_FIELDS + KEY_CELL, live, 0)
    return row_part + tl.load(col_keys + col * KEY_FIELDS + KEY_CELL, live, 0)
