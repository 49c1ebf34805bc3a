"""Both heads on a GPU: the score of all locations of all images in one launch.

Formula: that of `glance_fast.models.heads`, without the smoothing.

C is a perceptron with two hidden layers. Where differences are whitened each location has a matrix W of its own, so a
program takes one location of BLOCK_M images; else it takes BLOCK_M locations, whichever image they are of. W is lower
triangular (`LocationWhitening`), and only that half of it is read. Nothing between features and score is in memory.

Reference: `GlanceModel.head_scores` and `combine` in float64; tested against them in
`tests/dense/test_triton_pipeline.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from glance_fast.kernels.gpu.configurations import tuned_options, tuning_key

# Rows per program, the fewest that tensor cores take; features and hidden units that it takes at a time: 32 spill
# on sm_75 and take 106 KB of shared memory elsewhere, which two targets do not have.
ROW_BLOCK, FEATURE_BLOCK = 16, 16
# In more stages products of float32 would take more shared memory than a kernel gets without asking for it, 48 KB.


@dataclass(frozen=True)
class HeadWeights:
    """Both heads' weights, float32, packed for the kernel.

    `first` [inputs, width], `second` [width, width], `last` [width], biases [width], [width], [1]; `scale` [5] holds
    offset and scale of both heads, then λ. `mean` [locations, n + m] and `whiten` [locations, n + m, n + m], which is
    transposed, are empty where differences are not whitened.
    """

    first: Tensor
    first_bias: Tensor
    second: Tensor
    second_bias: Tensor
    last: Tensor
    last_bias: Tensor
    scale: Tensor
    mean: Tensor
    whiten: Tensor

    def tensors(self) -> list[Tensor]:
        """All of them, in the order in which the kernel takes them."""
        hidden = [self.first, self.first_bias, self.second, self.second_bias, self.last, self.last_bias]
        return [*hidden, self.scale, self.mean, self.whiten]


@triton.jit
def score_kernel(
    z_local, z_global, first, first_bias, second, second_bias, last, last_bias, scale, mean, whiten,
    rows, out, locations,
    N: tl.constexpr, TOTAL: tl.constexpr, WIDTH: tl.constexpr, HIDDEN: tl.constexpr, WHITENED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """z_l [rows, TOTAL], z_g [rows, N] -> scores [rows]; rows are images times locations, HIDDEN is WIDTH, rounded."""
    lane, k, unit = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_K), tl.arange(0, HIDDEN)
    if WHITENED:
        location = tl.program_id(0)
        row = (tl.program_id(1) * BLOCK_M + lane) * locations + location
        mean += location * TOTAL
        whiten += location.to(tl.int64) * TOTAL * TOTAL
    else:
        row = tl.program_id(0) * BLOCK_M + lane
    live = row < rows
    at, at_local = row.to(tl.int64)[:, None] * N, row.to(tl.int64)[:, None] * TOTAL
    hidden = tl.zeros((BLOCK_M, HIDDEN), tl.float32)
    distance = tl.zeros((BLOCK_M,), tl.float32)
    unit_mask = (unit < WIDTH)[None]
    for low in tl.range(0, TOTAL, BLOCK_K):
        i = low + k
        feature_mask = live[:, None] & (i < N)[None]
        weight = first + i[:, None] * WIDTH + unit[None]
        weight_mask = (i < N)[:, None] & unit_mask
        expected = tl.load(z_global + at + i[None], feature_mask, 0.0)
        if WHITENED:
            difference = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
            for before in tl.range(0, low + BLOCK_K, BLOCK_K):
                j = before + k
                residual = tl.load(z_local + at_local + j[None], live[:, None] & (j < TOTAL)[None], 0.0)
                residual -= tl.load(z_global + at + j[None], live[:, None] & (j < N)[None], 0.0)
                residual -= tl.load(mean + j, j < TOTAL, 0.0)[None]
                whiten_mask = (j < TOTAL)[:, None] & (i < TOTAL)[None]
                whiten_block = tl.load(whiten + j[:, None] * TOTAL + i[None], whiten_mask, 0.0)
                difference = tl.dot(residual, whiten_block, difference, input_precision=PRECISION)
            difference = tl.where(live[:, None], difference, 0.0)
            hidden = tl.dot(difference, tl.load(weight, weight_mask, 0.0), hidden, input_precision=PRECISION)
        else:
            actual = tl.load(z_local + at_local + i[None], feature_mask, 0.0)
            difference = actual - expected
            squares = tl.load(weight + 2 * N * WIDTH, weight_mask, 0.0)
            hidden = tl.dot(actual, tl.load(weight, weight_mask, 0.0), hidden, input_precision=PRECISION)
            hidden = tl.dot(difference * difference, squares, hidden, input_precision=PRECISION)
        hidden = tl.dot(expected, tl.load(weight + N * WIDTH, weight_mask, 0.0), hidden, input_precision=PRECISION)
        distance += tl.sum(difference * difference, axis=1)
    hidden = tl.maximum(hidden + tl.load(first_bias + unit, unit < WIDTH, 0.0)[None], 0.0)
    logit = tl.zeros((BLOCK_M,), tl.float32)
    for low in tl.range(0, WIDTH, BLOCK_K):
        i = low + k
        weight = tl.load(second + unit[:, None] * WIDTH + i[None], (unit < WIDTH)[:, None] & (i < WIDTH)[None], 0.0)
        deeper = tl.dot(hidden, weight, input_precision=PRECISION) + tl.load(second_bias + i, i < WIDTH, 0.0)[None]
        logit += tl.sum(tl.maximum(deeper, 0.0) * tl.load(last + i, i < WIDTH, 0.0)[None], axis=1)
    logit += tl.load(last_bias)
    if WHITENED:
        inconsistency = (tl.sqrt(distance / TOTAL) - tl.load(scale)) / tl.load(scale + 2)
        distortion = (-logit - tl.load(scale + 1)) / tl.load(scale + 3)
    else:
        inconsistency = distance / N
        distortion = tl.sigmoid(-tl.minimum(tl.maximum(logit, -80.0), 80.0))  # beyond them exp leaves float32
    lam = tl.load(scale + 4)
    tl.store(out + row, lam * inconsistency + (1 - lam) * distortion, live)


def score_settings(total: int, features: int, width: int, whitened: bool, precision: str) -> dict[str, Any]:
    """Keyword arguments of a launch: sizes of z_l (`total`), z_g and the hidden layers; `precision` of the products."""
    sizes = {"N": features, "TOTAL": total, "WIDTH": width, "HIDDEN": max(16, triton.next_power_of_2(width))}
    blocks = {"BLOCK_M": ROW_BLOCK, "BLOCK_K": FEATURE_BLOCK, "num_warps": 4, "num_stages": 2}
    return {**sizes, "WHITENED": whitened, **blocks, "PRECISION": precision}


def score(z_local: Tensor, z_global: Tensor, heads: HeadWeights, precision: str = "ieee") -> Tensor:
    """float32 z_l [B, locations, n + m], z_g [B, locations, n] -> scores float32 [B, locations], not yet smoothed.

    `precision` of the products: "ieee" or "tf32".
    """
    batch, locations, features = z_global.shape
    whitened = heads.whiten.numel() > 0
    total, width = z_local.shape[-1], heads.second.shape[0]
    settings = score_settings(total, features, width, whitened, precision)
    settings |= tuned_options(tuning_key("score_kernel", (total, width), z_local.device, z_local.dtype))
    out = torch.empty(batch, locations, dtype=torch.float32, device=z_local.device)
    rows = batch * locations
    block = settings["BLOCK_M"]
    grid = (locations, triton.cdiv(batch, block)) if whitened else (triton.cdiv(rows, block),)
    score_kernel[grid](
        z_local, z_global, heads.first, heads.first_bias, heads.second, heads.second_bias, heads.last, heads.last_bias,
        heads.scale, heads.mean, heads.whiten, rows, out, locations,
        **settings,
    )  # fmt: skip
    return out
