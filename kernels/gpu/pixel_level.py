"""Global-Net's first level on a GPU where it reads pixels: uint8 images become its base and its entries.

Formula, for normalised pixels x, with W, M and b as in the reference:

    base       sum[c] = Σ_t W_t · x[c + t],                             out[c] = relu( sum[c] · k²/sum(M) + b )
    entries    out[e] = relu( (sum[base cell] − Σ_t W_t · x[base cell + t]) · k²/sum(M) + b ),   t: touched taps

A hole removes the pixels that it touches, so no change is read; and the few values of a window are one product.

Reference: `kernels/reference/partial_conv.py`; tested against the per-patch loop in
`tests/dense/test_triton_pipeline.py`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from glance_fast.kernels.gpu.indexing import TILE_FIELDS, load_base_index, load_entries, load_tap
from glance_fast.kernels.gpu.partial_conv import channels_for, renormalise, store_base, store_entries
from glance_fast.kernels.gpu.pixels import convolve_pixels, load_normalised, warps_for, window_chunk
from glance_fast.kernels.gpu.tables import LevelTables
from glance_fast.kernels.reference.partial_conv import WeightShape

WARPS = 8


@triton.jit
def pixel_base_kernel(
    images, scale, shift, weight, bias, sums, out,
    height, width,
    CHANNELS: tl.constexpr, COUT: tl.constexpr, KERNEL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """uint8 [H, W, C] of each image -> the sums of its cells, float32, and their values [H * W, COUT]."""
    cells = tl.program_id(2).to(tl.int64) * height * width
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    live = m < height * width
    acc = convolve_pixels(
        images + cells * CHANNELS,
        scale,
        shift,
        weight,
        m // width - KERNEL // 2,
        m % width - KERNEL // 2,
        live,
        n,
        height,
        width,
        CHANNELS,
        COUT,
        KERNEL,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
        PRECISION,
    )
    store_base(acc, m, n, height, width, bias, sums + cells * COUT, out + cells * COUT, COUT, KERNEL)


@triton.jit
def pixel_entries_kernel(
    images, scale, shift, sums, base_out, weight, bias,
    tiles, row_taps, col_taps, row_keys, col_keys, out,
    cells, entries,
    CHANNELS: tl.constexpr, COUT: tl.constexpr, KERNEL: tl.constexpr, AS_CHANGES: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """uint8 images of `cells` pixels, their sums and values -> their entries [entries, COUT]."""
    image = tl.program_id(2).to(tl.int64)
    entry, row, col, live = load_entries(tiles + tl.program_id(0) * TILE_FIELDS, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for low in tl.range(0, KERNEL * KERNEL * CHANNELS, BLOCK_K):
        k = low + tl.arange(0, BLOCK_K)
        in_window = k < KERNEL * KERNEL * CHANNELS
        read, tap = live[:, None] & in_window[None], (k // CHANNELS)[None]
        y_band, _, _, y_cell, _ = load_tap(row_taps, row[:, None], tap // KERNEL, KERNEL, read)
        x_band, _, _, x_cell, _ = load_tap(col_taps, col[:, None], tap % KERNEL, KERNEL, read)
        touched = (y_band >= 0) & (x_band >= 0)
        pixels = images + image * cells * CHANNELS
        a = load_normalised(pixels, scale, shift, y_cell + x_cell, k[None], touched, CHANNELS)
        w = tl.load(weight + k[:, None] * COUT + n[None], in_window[:, None] & (n < COUT)[None], 0.0)
        acc = tl.dot((-a).to(weight.dtype.element_ty), w, acc, input_precision=PRECISION)
    base_cell = load_base_index(row_keys, col_keys, row, col, live)
    offset = image * cells * COUT
    value = renormalise(acc, row, col, base_cell, live, n, sums + offset, row_keys, col_keys, bias, COUT, KERNEL)
    store_entries(value, entry, base_cell, live, n, base_out + offset, out + image * entries * COUT, COUT, AS_CHANGES)


def level_settings(shape: WeightShape, dtype: torch.dtype, tile_size: int, precision: str) -> dict[str, Any]:
    """Keyword arguments of both launches, for weights [k, k, C, O] of `dtype` and tiles of `tile_size` entries."""
    kernel, _, channels, channels_out = shape
    blocks = {"BLOCK_M": tile_size, "BLOCK_N": channels_for(channels_out), "BLOCK_K": window_chunk(kernel, channels)}
    sizes = {"CHANNELS": channels, "COUT": channels_out, "KERNEL": kernel}
    return {**sizes, **blocks, "PRECISION": precision, "num_warps": warps_for(dtype, WARPS)}


def pixel_level(
    images: Tensor,
    pixels: Tensor,
    weight: Tensor,
    bias: Tensor,
    tables: LevelTables,
    as_changes: bool,
    precision: str = "ieee",
) -> tuple[Tensor, Tensor]:
    """uint8 [B, H, W, C] in 0..255 -> base [B, H, W, O] and entries [B, entries, O] of weight's dtype.

    `pixels` float32 [2, C]: 1/(255·std) and mean/std. All else as in `partial_conv.partial_conv`.
    """
    batch, height, width, _ = images.shape
    cells, channels_out = height * width, weight.shape[3]
    settings = level_settings(WeightShape(*weight.shape), weight.dtype, tables.tile_size, precision)
    sums = torch.empty(batch, cells, channels_out, dtype=torch.float32, device=images.device)
    out = torch.empty(batch, height, width, channels_out, dtype=weight.dtype, device=images.device)
    channels = triton.cdiv(channels_out, settings["BLOCK_N"])
    pixel_base_kernel[(triton.cdiv(cells, settings["BLOCK_M"]), channels, batch)](
        images, pixels[0], pixels[1], weight, bias, sums, out, height, width, **settings,
    )  # fmt: skip
    entries = torch.empty(batch, tables.entries, channels_out, dtype=weight.dtype, device=images.device)
    if tables.entries:
        pixel_entries_kernel[(len(tables.tiles), channels, batch)](
            images, pixels[0], pixels[1], sums, out, weight, bias,
            tables.tiles, tables.row_taps, tables.col_taps, tables.row_keys, tables.col_keys, entries,
            cells, tables.entries, AS_CHANGES=as_changes, **settings,
        )  # fmt: skip
    return out, entries
