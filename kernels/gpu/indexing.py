"""Where a program's entries are and what their taps read: arithmetic on the tables of `tables`."""

from __future__ import annotations

import triton
import triton.language as tl

# Columns of the tables.
TILE_FIELDS = tl.constexpr(10)
TAP_FIELDS = tl.constexpr(6)


@triton.jit
def entries_of(tile, BLOCK_M: tl.constexpr):
    """A tile's entries: numbers in the level, row keys, column keys, and which of them are there."""
    start, total, entry0 = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
    row0, col0, cols = tl.load(tile + 3), tl.load(tile + 4), tl.load(tile + 5)
    m = start + tl.arange(0, BLOCK_M)
    return entry0 + m, row0 + m // cols, col0 + m % cols, m < total


@triton.jit
def along(taps, keys, tap, SIZE: tl.constexpr, live):
    """What a tap of `keys` reads along one axis: band (−1: untouched), place in it, deadness, cell, band's length."""
    at = taps + (keys * SIZE + tap) * TAP_FIELDS
    band, place, dead = tl.load(at, live, -1), tl.load(at + 1, live, 0), tl.load(at + 2, live, 0)
    return band, place, dead, tl.load(at + 3, live, 0), tl.load(at + 4, live, 0)


@triton.jit
def key_along(taps, keys, tap, SIZE: tl.constexpr, live):
    """The number of the key below that a tap of `keys` reads along one axis."""
    return tl.load(taps + (keys * SIZE + tap) * TAP_FIELDS + 5, live, 0)


@triton.jit
def home_of(row_own, col_own, row, col, live):
    """The base cell of each entry."""
    return tl.load(row_own + row * 3, live, 0) + tl.load(col_own + col * 3, live, 0)
