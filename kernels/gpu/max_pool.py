"""Max pooling on a GPU: all entries of a pooled level, of all images, in one launch.

Formula, on the rows of a plan:

    out[e] = max over the window's taps:  the entry where the hole touches the tap, else its base cell; 0 where dead

With AS_CHANGES entries are less their base cells, as the next convolution reads them. A program takes BLOCK_M entries
of one block; where a tap's row lies follows from `tables`.

Reference: `kernels/reference/max_pool.py`; tested against the per-patch loop in `tests/dense/test_triton_pass.py`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from glance_fast.kernels.gpu.configurations import tuned_options, tuning_key
from glance_fast.kernels.gpu.indexing import TILE_FIELDS, load_base_index, load_entries, load_tap
from glance_fast.kernels.gpu.partial_conv import channels_for, store_entries
from glance_fast.kernels.gpu.tables import LevelTables


@triton.jit
def pool_kernel(
    values, base, base_out,
    tiles, row_taps, col_taps, row_keys, col_keys, block_offsets, out,
    values_stride, base_stride, base_out_stride, out_stride,
    CHANNELS: tl.constexpr, SIZE: tl.constexpr, AS_CHANGES: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Entries [entries below, C] and base [cells below, C] of each image -> entries [entries, C]."""
    image = tl.program_id(2).to(tl.int64)
    values += image * values_stride
    base += image * base_stride
    tile = tiles + tl.program_id(0) * TILE_FIELDS
    entry, row, col, live = load_entries(tile, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    best = tl.full((BLOCK_M, BLOCK_N), float("-inf"), tl.float32)
    for ty in tl.range(SIZE):
        y_band, y_position, y_dead, y_cell, _ = load_tap(row_taps, row, ty, SIZE, live)
        for tx in tl.range(SIZE):
            x_band, x_position, x_dead, x_cell, x_length = load_tap(col_taps, col, tx, SIZE, live)
            touched = (y_band >= 0) & (x_band >= 0)
            alive = touched & ((y_dead == 0) | (x_dead == 0))
            number = tl.load(block_offsets + y_band + x_band, alive, 0) + y_position * x_length + x_position
            row_at = tl.where(alive, values + number.to(tl.int64) * CHANNELS, base + (y_cell + x_cell) * CHANNELS)
            read = live & (alive | (touched == 0))
            cell = tl.load(row_at[:, None] + n[None], read[:, None] & (n < CHANNELS)[None], 0.0)
            best = tl.maximum(best, cell.to(tl.float32))
    base_cell = load_base_index(row_keys, col_keys, row, col, live)
    store_entries(
        best,
        entry,
        base_cell,
        live,
        n,
        base_out + image * base_out_stride,
        out + image * out_stride,
        CHANNELS,
        AS_CHANGES,
    )


def pool_settings(channels: int, size: int, tile_size: int) -> dict[str, int]:
    """Keyword arguments of a launch with tiles of `tile_size` entries."""
    # With other numbers of warps the index arithmetic spills on some device (`bench/compile_kernels.py`).
    warps = 2 if channels_for(channels) <= 32 else 8
    sizes = {"BLOCK_M": tile_size, "BLOCK_N": channels_for(channels), "num_warps": warps}
    return {"CHANNELS": channels, "SIZE": size, **sizes}


def pool_base(base: Tensor, size: int) -> Tensor:
    """The base alone: [B, H, W, C] -> [B, H // size, W // size, C]."""
    height, width = (side // size * size for side in base.shape[1:3])
    cells: Tensor = base[:, :height, :width].unflatten(1, (-1, size)).unflatten(3, (-1, size))
    return cells.amax(dim=(2, 4))


def max_pool(base: Tensor, values: Tensor, size: int, tables: LevelTables, as_changes: bool) -> tuple[Tensor, Tensor]:
    """One pooling: base [B, H, W, C], values [B, entries below, C] -> base [B, h, w, C], entries [B, entries, C]."""
    batch, _, _, channels = base.shape
    out = pool_base(base, size)
    entries = torch.empty(batch, tables.entries, channels, dtype=base.dtype, device=base.device)
    if tables.entries:
        settings = pool_settings(channels, size, tables.tile_size)
        key = tuning_key("pool_kernel", (channels, channels), base.device, base.dtype)
        settings |= {**tuned_options(key), "BLOCK_M": tables.tile_size}
        pool_kernel[(len(tables.tiles), triton.cdiv(channels, settings["BLOCK_N"]), batch)](
            values, base, out, *tables.tensors(), entries,
            values.stride(0), base.stride(0), out.stride(0), entries.stride(0),
            AS_CHANGES=as_changes, **settings,
        )  # fmt: skip
    return out, entries
