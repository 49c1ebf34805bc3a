"""Max pooling on a GPU: all entries of a pooled level, of all images, in one launch.

    out[e] = max over the window's taps:  the entry that a tap touches, the base cell that it does not, 0 where dead

With AS_CHANGES the base cell of each entry is taken off, as the next convolution wants it. A program takes BLOCK_M
entries of one block; where a tap's row lies follows from `tables`.

Reference: the per-patch loop, by way of `tests/test_triton.py`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from glance_fast.kernels.gpu.configurations import configured, place_of
from glance_fast.kernels.gpu.indexing import TILE_FIELDS, along, entries_of, home_of
from glance_fast.kernels.gpu.partial_conv import channels_for, store_entries
from glance_fast.kernels.gpu.tables import LevelTables


@triton.jit
def pool_kernel(
    values, base, base_out,
    tiles, row_taps, col_taps, row_own, col_own, first, out,
    values_stride, base_stride, base_out_stride, out_stride,
    CHANNELS: tl.constexpr, SIZE: tl.constexpr, AS_CHANGES: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Entries [entries below, C] and base [cells below, C] of each image -> entries [entries, C]."""
    image = tl.program_id(2).to(tl.int64)
    values += image * values_stride
    base += image * base_stride
    tile = tiles + tl.program_id(0) * TILE_FIELDS
    entry, row, col, live = entries_of(tile, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    best = tl.full((BLOCK_M, BLOCK_N), float("-inf"), tl.float32)
    for ty in tl.range(SIZE):
        y_band, y_place, y_dead, y_cell, _ = along(row_taps, row, ty, SIZE, live)
        for tx in tl.range(SIZE):
            x_band, x_place, x_dead, x_cell, x_length = along(col_taps, col, tx, SIZE, live)
            touched = (y_band >= 0) & (x_band >= 0)
            kept = touched & ((y_dead == 0) | (x_dead == 0))
            number = tl.load(first + y_band + x_band, kept, 0) + y_place * x_length + x_place
            row_at = tl.where(kept, values + number.to(tl.int64) * CHANNELS, base + (y_cell + x_cell) * CHANNELS)
            alive = live & (kept | (touched == 0))
            cell = tl.load(row_at[:, None] + n[None], alive[:, None] & (n < CHANNELS)[None], 0.0)
            best = tl.maximum(best, cell.to(tl.float32))
    home = home_of(row_own, col_own, row, col, live)
    store_entries(
        best, entry, home, live, n, base_out + image * base_out_stride, out + image * out_stride, CHANNELS, AS_CHANGES
    )


def pool_settings(channels: int, size: int, block: int) -> dict[str, int]:
    """All that a launch takes by name, for tiles of `block` entries."""
    # With other warps the index arithmetic spills on some device (`bench/compile_kernels.py`).
    warps = 2 if channels_for(channels) <= 32 else 8
    sizes = {"BLOCK_M": block, "BLOCK_N": channels_for(channels), "num_warps": warps}
    return {"CHANNELS": channels, "SIZE": size, **sizes}


def pooled(base: Tensor, size: int) -> Tensor:
    """The base alone: [B, H, W, C] -> [B, H // size, W // size, C]."""
    high, wide = (side // size * size for side in base.shape[1:3])
    cells: Tensor = base[:, :high, :wide].unflatten(1, (-1, size)).unflatten(3, (-1, size))
    return cells.amax(dim=(2, 4))


def max_pool(base: Tensor, values: Tensor, size: int, tables: LevelTables, as_changes: bool) -> tuple[Tensor, Tensor]:
    """One pooling: base [B, H, W, C], values [B, entries below, C] -> base [B, h, w, C], entries [B, entries, C]."""
    batch, _, _, channels = base.shape
    out = pooled(base, size)
    entries = torch.empty(batch, tables.entries, channels, dtype=base.dtype, device=base.device)
    if tables.entries:
        known = pool_settings(channels, size, tables.block)
        place = place_of("pool_kernel", (channels, channels), base.device, base.dtype)
        known |= {**configured(place), "BLOCK_M": tables.block}
        pool_kernel[(len(tables.tiles), triton.cdiv(channels, known["BLOCK_N"]), batch)](
            values, base, out, *tables.tensors(), entries,
            values.stride(0), base.stride(0), out.stride(0), entries.stride(0),
            AS_CHANGES=as_changes, **known,
        )  # fmt: skip
    return out, entries
