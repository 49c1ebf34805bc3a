"""Partial convolution and the max pooling after it on a GPU: all pooled entries, of all images, in one launch.

Formula, on the rows of a plan:

    out[e] = max over the window's taps:  relu( (sum[base cell] + Σ_t W_t · change[t]) · k²/sum(M) + b ) if touched,
                                          the base cell if not, 0 if dead

The convolution's entries are never in memory. But one that several windows share is computed for each of them, and as
the taps of a pooling window touch different taps of the convolution, all of these are read.

Reference: `kernels/reference/partial_conv.py`, then `kernels/reference/max_pool.py`; tested against the per-patch loop
in `tests/dense/test_triton_pass.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from glance_fast.kernels.gpu.configurations import tuned_options, tuning_key
from glance_fast.kernels.gpu.indexing import TILE_FIELDS, load_base_index, load_entries, load_tap, load_tap_key
from glance_fast.kernels.gpu.max_pool import pool_base
from glance_fast.kernels.gpu.partial_conv import (
    base_pass,
    entries_settings,
    multiply_changes,
    renormalise,
    store_entries,
)
from glance_fast.kernels.gpu.tables import LevelTables
from glance_fast.kernels.reference.partial_conv import WeightShape

# Pooled entries per program where no other number was measured to be faster.
POOLED_TILE = 32


@triton.jit
def pooled_entries_kernel(
    changes, base, sums, base_out, pooled_out, weight, bias,
    conv_row_taps, conv_col_taps, conv_row_keys, conv_col_keys, block_offsets,
    tiles, row_taps, col_taps, row_keys, col_keys, out,
    changes_stride, base_stride, sums_stride, base_out_stride, pooled_out_stride, out_stride,
    CIN: tl.constexpr, COUT: tl.constexpr, KERNEL: tl.constexpr, SIZE: tl.constexpr, AS_CHANGES: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The entries of the pooled level [entries, COUT], from what the convolution reads; `conv_…` are its tables."""
    image = tl.program_id(2).to(tl.int64)
    entry, row, col, live = load_entries(tiles + tl.program_id(0) * TILE_FIELDS, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    best = tl.full((BLOCK_M, BLOCK_N), float("-inf"), tl.float32)
    # One loop and not two: what a row of taps has in common would not fit the registers.
    for tap in tl.range(SIZE * SIZE):
        y_band, _, y_dead, y_cell, _ = load_tap(row_taps, row, tap // SIZE, SIZE, live)
        x_band, _, x_dead, x_cell, _ = load_tap(col_taps, col, tap % SIZE, SIZE, live)
        y_key = load_tap_key(row_taps, row, tap // SIZE, SIZE, live)
        x_key = load_tap_key(col_taps, col, tap % SIZE, SIZE, live)
        touched = (y_band >= 0) & (x_band >= 0)
        alive = touched & ((y_dead == 0) | (x_dead == 0))
        cell = y_cell + x_cell
        acc = multiply_changes(
            changes + image * changes_stride,
            base + image * base_stride,
            weight,
            conv_row_taps,
            conv_col_taps,
            block_offsets,
            y_key,
            x_key,
            alive,
            n,
            0,
            KERNEL,
            0,
            KERNEL,
            CIN,
            COUT,
            KERNEL,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
            PRECISION,
        )
        value = renormalise(
            acc,
            y_key,
            x_key,
            cell,
            alive,
            n,
            sums + image * sums_stride,
            conv_row_keys,
            conv_col_keys,
            bias,
            COUT,
            KERNEL,
        )
        untouched = (live & (touched == 0))[:, None] & (n < COUT)[None]
        base_value = tl.load(base_out + image * base_out_stride + cell[:, None] * COUT + n[None], untouched, 0.0)
        best = tl.maximum(best, tl.where(alive[:, None], value, base_value.to(tl.float32)))
    base_cell = load_base_index(row_keys, col_keys, row, col, live)
    out += image * out_stride
    store_entries(best, entry, base_cell, live, n, pooled_out + image * pooled_out_stride, out, COUT, AS_CHANGES)


def pooled_settings(
    shape: WeightShape, dtype: torch.dtype, size: int, tile_size: int, precision: str
) -> dict[str, Any]:
    """Keyword arguments of a launch: weights of this shape, windows of `size` x `size`, tiles of `tile_size`."""
    small = {"BLOCK_K": 16, "num_stages": 1} if dtype == torch.float32 else {}
    return {**entries_settings(shape, dtype, tile_size, precision), "num_warps": 8, **small, "SIZE": size}


def conv_pool(
    base: Tensor,
    changes: Tensor,
    weight: Tensor,
    bias: Tensor,
    conv_tables: Sequence[Tensor],
    tables: LevelTables,
    size: int,
    as_changes: bool,
    precision: str = "ieee",
) -> tuple[Tensor, Tensor]:
    """Two layers: base [B, H, W, C], changes [B, entries below, C] -> base [B, h, w, O], entries [B, entries, O].

    `conv_tables` are the tensors of the convolution's tables, `tables` those of the pooling; all else as in
    `partial_conv.partial_conv`.
    """
    sums, out = base_pass(base, weight, bias, precision)
    pooled_base = pool_base(out, size)
    batch, channels_out = len(base), weight.shape[3]
    entries = torch.empty(batch, tables.entries, channels_out, dtype=base.dtype, device=base.device)
    if tables.entries:
        key = tuning_key("pooled_entries_kernel", (weight.shape[2], channels_out), base.device, base.dtype)
        settings = pooled_settings(WeightShape(*weight.shape), base.dtype, size, tables.tile_size, precision)
        settings |= {**tuned_options(key), "BLOCK_M": tables.tile_size}
        pooled_entries_kernel[(len(tables.tiles), triton.cdiv(channels_out, settings["BLOCK_N"]), batch)](
            changes, base, sums, out, pooled_base, weight, bias, *conv_tables[1:], *tables.tensors()[:-1], entries,
            changes.stride(0), base.stride(0), sums.stride(0), out.stride(0), pooled_base.stride(0), entries.stride(0),
            AS_CHANGES=as_changes, **settings,
        )  # fmt: skip
    return pooled_base, entries
