"""Partial convolution on a GPU: all entries of a level, of all images, in one launch; and its base in another.

Formula, on the rows of a plan, with W, M and b as in the reference:

    base       sum[c] = Σ_t W_t · base[c + t],                       out[c] = relu( sum[c] · k²/sum(M) + b )
    entries    out[e] = relu( (sum[base cell] + Σ_t W_t · change[t]) · k²/sum(M) + b ),   t: touched taps

A program takes BLOCK_M entries of one block (an outer product of a row band and a column band) and BLOCK_N channels.
Where a tap's row lies follows by arithmetic from two small tables, one per axis, so nothing is gathered in memory and
no mask exists. The products run on tensor cores and add up in float32.

Reference: `kernels/reference/partial_conv.py`; tested against the per-patch loop in `tests/dense/test_triton_pass.py`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from glance_fast.kernels.gpu.configurations import tuned_options, tuning_key
from glance_fast.kernels.gpu.indexing import (
    KEY_DEAD,
    KEY_FIELDS,
    KEY_INSIDE,
    TILE_COL_TAP_START,
    TILE_COL_TAP_STOP,
    TILE_FIELDS,
    TILE_ROW_TAP_START,
    TILE_ROW_TAP_STOP,
    load_base_index,
    load_entries,
    load_tap,
)
from glance_fast.kernels.gpu.tables import ENTRY_TILE, LevelTables
from glance_fast.kernels.reference.partial_conv import WeightShape


@triton.jit
def base_kernel(
    base, weight, bias, sums, out,
    height, width, base_stride, out_stride,
    CIN: tl.constexpr, COUT: tl.constexpr, KERNEL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Cells [H * W, CIN] of each image -> their sums, float32, and their values [H * W, COUT]."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    image = tl.program_id(2).to(tl.int64)
    base += image * base_stride
    y, x = m // width, m % width
    live = m < height * width
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for ty in tl.range(KERNEL):
        for tx in tl.range(KERNEL):
            row, col = y + ty - KERNEL // 2, x + tx - KERNEL // 2
            inside = live & (row >= 0) & (row < height) & (col >= 0) & (col < width)
            cell = base + (row * width + col)[:, None] * CIN
            for low in tl.range(0, CIN, BLOCK_K):
                k = low + tl.arange(0, BLOCK_K)
                a = tl.load(cell + k[None], inside[:, None] & (k < CIN)[None], 0.0)
                w_at = ((ty * KERNEL + tx) * CIN + k)[:, None] * COUT + n[None]
                w = tl.load(weight + w_at, (k < CIN)[:, None] & (n < COUT)[None], 0.0)
                acc = tl.dot(a, w, acc, input_precision=PRECISION)
    sums_of = sums + image * height * width * COUT
    store_base(acc, m, n, height, width, bias, sums_of, out + image * out_stride, COUT, KERNEL)


@triton.jit
def store_base(acc, m, n, height, width, bias, sums, out, COUT: tl.constexpr, KERNEL: tl.constexpr):
    """Write the sums of cells `m` of an image and, renormalised, their values, channels `n`."""
    y, x = m // width, m % width
    high = tl.minimum(y + KERNEL // 2, height - 1) - tl.maximum(y - KERNEL // 2, 0) + 1
    wide = tl.minimum(x + KERNEL // 2, width - 1) - tl.maximum(x - KERNEL // 2, 0) + 1
    scale = KERNEL * KERNEL / tl.maximum(high * wide, 1).to(tl.float32)
    at = m[:, None] * COUT + n[None]
    stored = (m < height * width)[:, None] & (n < COUT)[None]
    tl.store(sums + at, acc, stored)
    value = acc * scale[:, None] + tl.load(bias + n, n < COUT, 0.0)[None]
    tl.store(out + at, tl.maximum(value, 0.0).to(out.dtype.element_ty), stored)


@triton.jit
def entries_kernel(
    changes, base, sums, base_out, weight, bias,
    tiles, row_taps, col_taps, row_keys, col_keys, block_offsets, out,
    changes_stride, base_stride, sums_stride, base_out_stride, out_stride,
    CIN: tl.constexpr, COUT: tl.constexpr, KERNEL: tl.constexpr, AS_CHANGES: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The entries of a level [entries, COUT], with AS_CHANGES less their base cells."""
    image = tl.program_id(2).to(tl.int64)
    tile = tiles + tl.program_id(0) * TILE_FIELDS
    entry, row, col, live = load_entries(tile, BLOCK_M)
    ty0, ty1 = tl.load(tile + TILE_ROW_TAP_START), tl.load(tile + TILE_ROW_TAP_STOP)
    tx0, tx1 = tl.load(tile + TILE_COL_TAP_START), tl.load(tile + TILE_COL_TAP_STOP)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = multiply_changes(
        changes + image * changes_stride,
        base + image * base_stride,
        weight,
        row_taps,
        col_taps,
        block_offsets,
        row,
        col,
        live,
        n,
        ty0,
        ty1,
        tx0,
        tx1,
        CIN,
        COUT,
        KERNEL,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
        PRECISION,
    )
    # Read here and not above: held through the loops it would not fit the registers.
    base_cell = load_base_index(row_keys, col_keys, row, col, live)
    value = renormalise(
        acc, row, col, base_cell, live, n, sums + image * sums_stride, row_keys, col_keys, bias, COUT, KERNEL
    )
    store_entries(
        value, entry, base_cell, live, n, base_out + image * base_out_stride, out + image * out_stride, COUT, AS_CHANGES
    )


@triton.jit
def multiply_changes(
    changes, base, weight, row_taps, col_taps, block_offsets,
    row, col, live, n, ty0, ty1, tx0, tx1,
    CIN: tl.constexpr, COUT: tl.constexpr, KERNEL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Σ_t W_t · change[t] of keys (row, col) at taps ty0:ty1 x tx0:tx1, [BLOCK_M, BLOCK_N]."""
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for ty in range(ty0, ty1):
        y_band, y_position, y_dead, y_cell, _ = load_tap(row_taps, row, ty, KERNEL, live)
        for tx in range(tx0, tx1):
            x_band, x_position, x_dead, x_cell, x_length = load_tap(col_taps, col, tx, KERNEL, live)
            touched = (y_band >= 0) & (x_band >= 0)
            alive = touched & ((y_dead == 0) | (x_dead == 0))
            number = tl.load(block_offsets + y_band + x_band, alive, 0) + y_position * x_length + x_position
            # An entry less its base cell, or minus the base cell where the entry is dead: one load for both.
            row_at = tl.where(alive, changes + number.to(tl.int64) * CIN, base + (y_cell + x_cell) * CIN)
            sign = tl.where(alive, 1.0, -1.0).to(changes.dtype.element_ty)
            for low in tl.range(0, CIN, BLOCK_K):
                k = low + tl.arange(0, BLOCK_K)
                a = tl.load(row_at[:, None] + k[None], touched[:, None] & (k < CIN)[None], 0.0) * sign[:, None]
                w_at = ((ty * KERNEL + tx) * CIN + k)[:, None] * COUT + n[None]
                w = tl.load(weight + w_at, (k < CIN)[:, None] & (n < COUT)[None], 0.0)
                acc = tl.dot(a, w, acc, input_precision=PRECISION)
    return acc


@triton.jit
def renormalise(
    acc, row, col, base_cell, live, n, sums, row_keys, col_keys, bias, COUT: tl.constexpr, KERNEL: tl.constexpr
):
    """The values of keys (row, col) whose sums differ by `acc` from those of their base cells."""
    valid = tl.load(row_keys + row * KEY_FIELDS + KEY_INSIDE, live, 1)
    valid *= tl.load(col_keys + col * KEY_FIELDS + KEY_INSIDE, live, 1)
    dead = tl.load(row_keys + row * KEY_FIELDS + KEY_DEAD, live, 0)
    valid -= dead * tl.load(col_keys + col * KEY_FIELDS + KEY_DEAD, live, 0)
    acc += tl.load(sums + base_cell[:, None] * COUT + n[None], live[:, None] & (n < COUT)[None], 0.0)
    scale = KERNEL * KERNEL / valid.to(tl.float32)
    return tl.maximum(acc * scale[:, None] + tl.load(bias + n, n < COUT, 0.0)[None], 0.0)


@triton.jit
def store_entries(value, entry, base_cell, live, n, base_out, out, COUT: tl.constexpr, AS_CHANGES: tl.constexpr):
    """Write entries; with AS_CHANGES less their base cells, as the next convolution reads them."""
    stored = live[:, None] & (n < COUT)[None]
    if AS_CHANGES:
        value -= tl.load(base_out + base_cell[:, None] * COUT + n[None], stored, 0.0).to(tl.float32)
    tl.store(out + entry.to(tl.int64)[:, None] * COUT + n[None], value.to(out.dtype.element_ty), stored)


def channels_for(channels: int) -> int:
    """Output channels per program: a power of two from 16 to 64."""
    return int(max(16, min(64, triton.next_power_of_2(channels))))


def base_settings(shape: WeightShape, dtype: torch.dtype, precision: str) -> dict[str, Any]:
    """Keyword arguments of a launch of the base kernel, for weights of this shape and dtype.

    With these sizes no register is spilled on any target, as `bench/compile_kernels.py` measures.
    """
    settings = {**_settings(shape, precision), "BLOCK_M": ENTRY_TILE}
    if dtype != torch.float32:
        return {**settings, "BLOCK_K": 16} if shape.channels_out >= 128 else settings
    if shape.channels_out < 64:
        return {**settings, "num_stages": 2}
    return {**settings, "BLOCK_K": 16, "num_warps": 16, "num_stages": 1}


def entries_settings(shape: WeightShape, dtype: torch.dtype, tile_size: int, precision: str) -> dict[str, Any]:
    """Keyword arguments of a launch of the entries kernel with tiles of `tile_size` entries."""
    many_warps = dtype == torch.float32 and shape.channels_out > 32
    return {**_settings(shape, precision), "BLOCK_M": tile_size, "num_warps": 16 if many_warps else 8}


def _settings(shape: WeightShape, precision: str) -> dict[str, Any]:
    kernel, _, channels_in, channels_out = shape
    # Channels that a program takes at a time, out and in, are powers of two that the tensor cores take.
    blocks = {"BLOCK_N": channels_for(channels_out), "BLOCK_K": max(16, min(32, triton.next_power_of_2(channels_in)))}
    return {
        "CIN": channels_in,
        "COUT": channels_out,
        "KERNEL": kernel,
        **blocks,
        "PRECISION": precision,
        "num_warps": 8,
    }


def partial_conv(
    base: Tensor,
    changes: Tensor,
    weight: Tensor,
    bias: Tensor,
    tables: LevelTables,
    as_changes: bool,
    precision: str = "ieee",
) -> tuple[Tensor, Tensor]:
    """One layer: base [B, H, W, C], changes [B, entries below, C] -> base [B, H, W, O], entries [B, entries, O].

    weight [k, k, C, O] and base in float32, float16 or bfloat16; bias [O] in float32. With `as_changes` the entries
    are less their base cells, as the next convolution reads them. `precision` of float32 products: "ieee" or "tf32".
    """
    sums, out = base_pass(base, weight, bias, precision)
    batch, channels_in, channels_out = len(base), *weight.shape[2:]
    entries = torch.empty(batch, tables.entries, channels_out, dtype=base.dtype, device=base.device)
    if tables.entries:
        key = tuning_key("entries_kernel", (channels_in, channels_out), base.device, base.dtype)
        settings = entries_settings(WeightShape(*weight.shape), base.dtype, tables.tile_size, precision)
        settings |= {**tuned_options(key), "BLOCK_M": tables.tile_size}
        entries_kernel[(len(tables.tiles), triton.cdiv(channels_out, settings["BLOCK_N"]), batch)](
            changes, base, sums, out, weight, bias, *tables.tensors(), entries,
            changes.stride(0), base.stride(0), sums.stride(0), out.stride(0), entries.stride(0),
            AS_CHANGES=as_changes, **settings,
        )  # fmt: skip
    return out, entries


def base_pass(base: Tensor, weight: Tensor, bias: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    """The base alone: its sums float32 [B, H * W, O], and its values [B, H, W, O] of the dtype of `base`."""
    batch, height, width, channels_in = base.shape
    channels_out = weight.shape[3]
    key = tuning_key("base_kernel", (channels_in, channels_out), base.device, base.dtype)
    settings = base_settings(WeightShape(*weight.shape), base.dtype, precision) | tuned_options(key)
    sums = torch.empty(batch, height * width, channels_out, dtype=torch.float32, device=base.device)
    out = torch.empty(batch, height, width, channels_out, dtype=base.dtype, device=base.device)
    grid = triton.cdiv(height * width, settings["BLOCK_M"]), triton.cdiv(channels_out, settings["BLOCK_N"]), batch
    base_kernel[grid](
        base, weight, bias, sums, out, height, width, base.stride(0), out.stride(0), **settings,
    )  # fmt: skip
    return sums, out
