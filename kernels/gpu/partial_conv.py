"""Partial convolution on a GPU: all entries of a level, of all images, in one launch; and its base in another.

Formula, as in `partial_conv`:

    base       sum[c] = Σ_t W_t · base[c + t],                       out[c] = relu( sum[c] · k²/sum(M) + b )
    entries    out[e] = relu( (sum[home] + Σ_t W_t · change[t]) · k²/sum(M) + b ),   t: touched taps

A program takes BLOCK_M entries of one block (an outer product of a row band and a column band) and BLOCK_N channels.
Where a tap's row lies follows by arithmetic from two small tables, one an axis, so nothing is gathered in memory and
no mask exists. The products run on tensor cores and add up in float32.

Reference: the per-patch loop, by way of `tests/test_triton.py`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from glance_fast.kernels.gpu.configurations import configured, place_of
from glance_fast.kernels.gpu.indexing import TILE_FIELDS, along, entries_of, home_of
from glance_fast.kernels.gpu.tables import BLOCK, LevelTables


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
    tiles, row_taps, col_taps, row_own, col_own, first, out,
    changes_stride, base_stride, sums_stride, base_out_stride, out_stride,
    CIN: tl.constexpr, COUT: tl.constexpr, KERNEL: tl.constexpr, AS_CHANGES: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The entries of a level, or with AS_CHANGES what they differ by from their base cells: [entries, COUT]."""
    image = tl.program_id(2).to(tl.int64)
    tile = tiles + tl.program_id(0) * TILE_FIELDS
    entry, row, col, live = entries_of(tile, BLOCK_M)
    ty0, ty1, tx0, tx1 = tl.load(tile + 6), tl.load(tile + 7), tl.load(tile + 8), tl.load(tile + 9)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = changed(
        changes + image * changes_stride,
        base + image * base_stride,
        weight,
        row_taps,
        col_taps,
        first,
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
    home = home_of(row_own, col_own, row, col, live)
    value = renormalised(acc, row, col, home, live, n, sums + image * sums_stride, row_own, col_own, bias, COUT, KERNEL)
    store_entries(
        value, entry, home, live, n, base_out + image * base_out_stride, out + image * out_stride, COUT, AS_CHANGES
    )


@triton.jit
def changed(
    changes, base, weight, row_taps, col_taps, first,
    row, col, live, n, ty0, ty1, tx0, tx1,
    CIN: tl.constexpr, COUT: tl.constexpr, KERNEL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What the hole changes in the sums of keys (row, col) at taps ty0:ty1 x tx0:tx1, [BLOCK_M, BLOCK_N]."""
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for ty in range(ty0, ty1):
        y_band, y_place, y_dead, y_cell, _ = along(row_taps, row, ty, KERNEL, live)
        for tx in range(tx0, tx1):
            x_band, x_place, x_dead, x_cell, x_length = along(col_taps, col, tx, KERNEL, live)
            touched = (y_band >= 0) & (x_band >= 0)
            kept = touched & ((y_dead == 0) | (x_dead == 0))
            number = tl.load(first + y_band + x_band, kept, 0) + y_place * x_length + x_place
            # What an entry gains over its base cell, or minus the base cell where all is lost: one load for both.
            row_at = tl.where(kept, changes + number.to(tl.int64) * CIN, base + (y_cell + x_cell) * CIN)
            sign = tl.where(kept, 1.0, -1.0).to(changes.dtype.element_ty)
            for low in tl.range(0, CIN, BLOCK_K):
                k = low + tl.arange(0, BLOCK_K)
                a = tl.load(row_at[:, None] + k[None], touched[:, None] & (k < CIN)[None], 0.0) * sign[:, None]
                w_at = ((ty * KERNEL + tx) * CIN + k)[:, None] * COUT + n[None]
                w = tl.load(weight + w_at, (k < CIN)[:, None] & (n < COUT)[None], 0.0)
                acc = tl.dot(a, w, acc, input_precision=PRECISION)
    return acc


@triton.jit
def renormalised(acc, row, col, home, live, n, sums, row_own, col_own, bias, COUT: tl.constexpr, KERNEL: tl.constexpr):
    """The values of keys (row, col) whose home's sum changes by `acc`."""
    valid = tl.load(row_own + row * 3 + 1, live, 1) * tl.load(col_own + col * 3 + 1, live, 1)
    valid -= tl.load(row_own + row * 3 + 2, live, 0) * tl.load(col_own + col * 3 + 2, live, 0)
    acc += tl.load(sums + home[:, None] * COUT + n[None], live[:, None] & (n < COUT)[None], 0.0)
    scale = KERNEL * KERNEL / valid.to(tl.float32)
    return tl.maximum(acc * scale[:, None] + tl.load(bias + n, n < COUT, 0.0)[None], 0.0)


@triton.jit
def store_entries(value, entry, home, live, n, base_out, out, COUT: tl.constexpr, AS_CHANGES: tl.constexpr):
    """Write entries, or what they differ by from their base cells, as the next convolution wants them."""
    stored = live[:, None] & (n < COUT)[None]
    if AS_CHANGES:
        value -= tl.load(base_out + home[:, None] * COUT + n[None], stored, 0.0).to(tl.float32)
    tl.store(out + entry.to(tl.int64)[:, None] * COUT + n[None], value.to(out.dtype.element_ty), stored)


def channels_for(channels: int) -> int:
    """Channels out that a program takes: a power of two from 16 to 64."""
    return int(max(16, min(64, triton.next_power_of_2(channels))))


def base_settings(weight: tuple[int, ...], dtype: torch.dtype, precision: str) -> dict[str, Any]:
    """All that a launch of the base takes by name, for a weight of this shape and dtype.

    Sizes with which nothing is spilled on any target, as `bench/compile_kernels.py` found them.
    """
    known = {**_settings(weight, precision), "BLOCK_M": BLOCK}
    if dtype != torch.float32:
        return {**known, "BLOCK_K": 16} if weight[3] >= 128 else known
    if weight[3] < 64:
        return {**known, "num_stages": 2}
    return {**known, "BLOCK_K": 16, "num_warps": 16, "num_stages": 1}


def entries_settings(weight: tuple[int, ...], dtype: torch.dtype, block: int, precision: str) -> dict[str, Any]:
    """The same for entries in tiles of `block`."""
    wide = dtype == torch.float32 and weight[3] > 32
    return {**_settings(weight, precision), "BLOCK_M": block, "num_warps": 16 if wide else 8}


def _settings(weight: tuple[int, ...], precision: str) -> dict[str, Any]:
    kernel, _, before, after = weight
    # Channels that a program takes at a time, out and in, are powers of two that the tensor cores take.
    blocks = {"BLOCK_N": channels_for(after), "BLOCK_K": max(16, min(32, triton.next_power_of_2(before)))}
    return {"CIN": before, "COUT": after, "KERNEL": kernel, **blocks, "PRECISION": precision, "num_warps": 8}


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
    are what they differ by from their base cells, as the next convolution wants them. `precision` of float32 products:
    "ieee" or "tf32".
    """
    sums, out = base_of(base, weight, bias, precision)
    batch, before, after = len(base), *weight.shape[2:]
    entries = torch.empty(batch, tables.entries, after, dtype=base.dtype, device=base.device)
    if tables.entries:
        place = place_of("entries_kernel", (before, after), base.device, base.dtype)
        known = entries_settings(tuple(weight.shape), base.dtype, tables.block, precision)
        known |= {**configured(place), "BLOCK_M": tables.block}
        entries_kernel[(len(tables.tiles), triton.cdiv(after, known["BLOCK_N"]), batch)](
            changes, base, sums, out, weight, bias, *tables.tensors(), entries,
            changes.stride(0), base.stride(0), sums.stride(0), out.stride(0), entries.stride(0),
            AS_CHANGES=as_changes, **known,
        )  # fmt: skip
    return out, entries


def base_of(base: Tensor, weight: Tensor, bias: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    """The base alone: its sums float32 [B, H * W, O], and its values [B, H, W, O]."""
    batch, height, width, before = base.shape
    after = weight.shape[3]
    place = place_of("base_kernel", (before, after), base.device, base.dtype)
    known = base_settings(tuple(weight.shape), base.dtype, precision) | configured(place)
    sums = torch.empty(batch, height * width, after, dtype=torch.float32, device=base.device)
    out = torch.empty(batch, height, width, after, dtype=base.dtype, device=base.device)
    base_kernel[(triton.cdiv(height * width, known["BLOCK_M"]), triton.cdiv(after, known["BLOCK_N"]), batch)](
        base, weight, bias, sums, out, height, width, base.stride(0), out.stride(0), **known,
    )  # fmt: skip
    return sums, out
