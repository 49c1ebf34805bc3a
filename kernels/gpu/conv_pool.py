"""Partial convolution and the max pooling behind it on a GPU: all pooled entries, of all images, in one launch.

    out[e] = max over the window's taps:  relu( (sum[home] + Σ_t W_t · change[t]) · k²/sum(M) + b )  where touched,
                                          the base cell where not, 0 where dead

The convolution's entries are never in memory. But one that several windows share is computed for each of them, and as
the taps of a pooling window touch different taps of the convolution, all of these are looked at.

Reference: the per-patch loop, by way of `tests/test_triton.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from glance_fast.kernels.gpu.configurations import configured, place_of
from glance_fast.kernels.gpu.indexing import TILE_FIELDS, along, entries_of, home_of, key_along
from glance_fast.kernels.gpu.max_pool import pooled
from glance_fast.kernels.gpu.partial_conv import base_of, changed, entries_settings, renormalised, store_entries
from glance_fast.kernels.gpu.tables import LevelTables

# Entries that a program takes where nothing else was measured to be faster.
BLOCK = 32


@triton.jit
def pooled_entries_kernel(
    changes, base, sums, base_out, pooled_out, weight, bias,
    conv_row_taps, conv_col_taps, conv_row_own, conv_col_own, first,
    tiles, row_taps, col_taps, row_own, col_own, out,
    changes_stride, base_stride, sums_stride, base_out_stride, pooled_out_stride, out_stride,
    CIN: tl.constexpr, COUT: tl.constexpr, KERNEL: tl.constexpr, SIZE: tl.constexpr, AS_CHANGES: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The entries of the pooled level [entries, COUT], from what the convolution reads; `conv_…` are its tables."""
    image = tl.program_id(2).to(tl.int64)
    entry, row, col, live = entries_of(tiles + tl.program_id(0) * TILE_FIELDS, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    best = tl.full((BLOCK_M, BLOCK_N), float("-inf"), tl.float32)
    # One loop and not two: what a row of taps has in common would not fit the registers.
    for tap in tl.range(SIZE * SIZE):
        y_band, _, y_dead, y_cell, _ = along(row_taps, row, tap // SIZE, SIZE, live)
        x_band, _, x_dead, x_cell, _ = along(col_taps, col, tap % SIZE, SIZE, live)
        y_key = key_along(row_taps, row, tap // SIZE, SIZE, live)
        x_key = key_along(col_taps, col, tap % SIZE, SIZE, live)
        touched = (y_band >= 0) & (x_band >= 0)
        kept = touched & ((y_dead == 0) | (x_dead == 0))
        cell = y_cell + x_cell
        acc = changed(
            changes + image * changes_stride,
            base + image * base_stride,
            weight,
            conv_row_taps,
            conv_col_taps,
            first,
            y_key,
            x_key,
            kept,
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
        value = renormalised(
            acc,
            y_key,
            x_key,
            cell,
            kept,
            n,
            sums + image * sums_stride,
            conv_row_own,
            conv_col_own,
            bias,
            COUT,
            KERNEL,
        )
        alone = (live & (touched == 0))[:, None] & (n < COUT)[None]
        whole = tl.load(base_out + image * base_out_stride + cell[:, None] * COUT + n[None], alone, 0.0)
        best = tl.maximum(best, tl.where(kept[:, None], value, whole.to(tl.float32)))
    home = home_of(row_own, col_own, row, col, live)
    into = out + image * out_stride
    store_entries(best, entry, home, live, n, pooled_out + image * pooled_out_stride, into, COUT, AS_CHANGES)


def pooled_settings(
    weight: tuple[int, ...], dtype: torch.dtype, size: int, block: int, precision: str
) -> dict[str, Any]:
    """All that a launch takes by name, for a weight of this shape and dtype, windows of `size` and tiles of `block`."""
    narrow = {"BLOCK_K": 16, "num_stages": 1} if dtype == torch.float32 else {}
    return {**entries_settings(weight, dtype, block, precision), "num_warps": 8, **narrow, "SIZE": size}


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
    sums, out = base_of(base, weight, bias, precision)
    shared = pooled(out, size)
    batch, after = len(base), weight.shape[3]
    entries = torch.empty(batch, tables.entries, after, dtype=base.dtype, device=base.device)
    if tables.entries:
        place = place_of("pooled_entries_kernel", (weight.shape[2], after), base.device, base.dtype)
        known = pooled_settings(tuple(weight.shape), base.dtype, size, tables.block, precision)
        known |= {**configured(place), "BLOCK_M": tables.block}
        pooled_entries_kernel[(len(tables.tiles), triton.cdiv(after, known["BLOCK_N"]), batch)](
            changes, base, sums, out, shared, weight, bias, *conv_tables[1:], *tables.tensors()[:-1], entries,
            changes.stride(0), base.stride(0), sums.stride(0), out.stride(0), shared.stride(0), entries.stride(0),
            AS_CHANGES=as_changes, **known,
        )  # fmt: skip
    return shared, entries
