"""Partial convolution and masked pooling: references against loops over the formula, rows against those."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from glance_fast.kernels.max_pool import max_pool_reference, max_pool_rows
from glance_fast.kernels.partial_conv import partial_conv_reference, partial_conv_rows, weight_rows
from tests.tolerances import TOLERANCES, assert_close

Floats = NDArray[np.float64]
DTYPES = tuple(TOLERANCES)
HOLES = {
    "inside": (slice(2, 7), slice(3, 9)),
    "corner": (slice(0, 5), slice(0, 4)),
    "far corner": (slice(4, None), slice(6, None)),
    "a border": (slice(3, 6), slice(None)),
    "one pixel": (slice(4, 5), slice(5, 6)),
    "everything": (slice(None), slice(None)),
    "nothing": (slice(0, 0), slice(0, 0)),
}


def conv_by_formula(x: Floats, mask: Floats, weight: Floats, bias: Floats) -> tuple[Floats, Floats]:
    """The formula, cell by cell: x [C, H, W], mask [H, W], weight [O, C, k, k]."""
    outs, _, kernel, _ = weight.shape
    _, height, width = x.shape
    out, alive = np.zeros((outs, height, width)), np.zeros((height, width))
    for o, y, x0 in product(range(outs), range(height), range(width)):
        total, valid = 0.0, 0
        for dy, dx in product(range(kernel), repeat=2):
            row, col = y + dy - kernel // 2, x0 + dx - kernel // 2
            if 0 <= row < height and 0 <= col < width and mask[row, col]:
                valid += 1
                total += float(weight[o, :, dy, dx] @ x[:, row, col])
        if valid:
            out[o, y, x0] = max(0.0, total * kernel**2 / valid + bias[o])
            alive[y, x0] = 1
    return out, alive


def pool_by_formula(x: Floats, mask: Floats, size: int) -> tuple[Floats, Floats]:
    channels, height, width = x.shape
    out, alive = (
        np.zeros((channels, height // size, width // size)),
        np.zeros((height // size, width // size)),
    )
    for y, x0 in product(range(height // size), range(width // size)):
        block = slice(y * size, (y + 1) * size), slice(x0 * size, (x0 + 1) * size)
        out[:, y, x0] = (x[:, *block] * mask[block]).max(axis=(1, 2))
        alive[y, x0] = mask[block].max()
    return out, alive


def masked(name: str, size: tuple[int, int] = (9, 13)) -> Floats:
    mask = np.ones(size)
    mask[HOLES[name]] = 0
    return mask


def problem(kernel: int, channels: int = 2, outs: int = 3) -> tuple[Floats, Floats, Floats]:
    rng = np.random.default_rng(kernel)
    return (
        rng.normal(size=(channels, 9, 13)),
        rng.normal(size=(outs, channels, kernel, kernel)),
        rng.normal(size=outs),
    )


def tensors(*arrays: Floats, dtype: torch.dtype) -> list[Tensor]:
    return [torch.from_numpy(array).to(dtype) for array in arrays]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("hole", HOLES)
def test_the_reference_is_the_formula(hole: str, kernel: int, dtype: torch.dtype) -> None:
    mask, (x, weight, bias) = masked(hole), problem(kernel)
    expected, alive = conv_by_formula(x, mask, weight, bias)
    given = tensors(x[None], mask[None, None], weight, bias, dtype=dtype)
    found, found_mask = partial_conv_reference(*given)
    np.testing.assert_array_equal(found_mask[0, 0], alive)
    assert found_mask.dtype == dtype
    if hole == "everything":
        assert not found.any() and not alive.any()
    else:
        assert_close(found[0], expected, dtype)


def test_windows_of_hole_alone_are_zero_whatever_the_bias() -> None:
    mask, (x, weight, _) = masked("inside"), problem(3)
    bias = np.full(3, 7.0)
    given = tensors(x[None], mask[None, None], weight, bias, dtype=torch.float64)
    found, alive = partial_conv_reference(*given)
    dead = torch.zeros(9, 13, dtype=torch.bool)
    dead[3:6, 4:8] = True
    assert torch.equal(alive[0, 0] == 0, dead)
    assert (found[0][:, dead] == 0).all()


def test_without_a_hole_only_the_border_is_renormalised() -> None:
    x, weight, bias = problem(3)
    given = tensors(x[None], masked("nothing")[None, None], weight, bias, dtype=torch.float64)
    found, _ = partial_conv_reference(*given)
    plain = torch.nn.functional.conv2d(given[0], given[2], given[3]).relu()
    assert_close(found[:, :, 1:-1, 1:-1], plain, torch.float64)
    corner = np.einsum("ocij,cij->o", weight[:, :, 1:, 1:], x[:, :2, :2]) * 9 / 4 + bias
    assert_close(found[0, :, 0, 0], np.maximum(corner, 0), torch.float64)


def test_each_image_of_a_batch_may_have_its_own_mask() -> None:
    x, weight, bias = problem(3)
    masks = np.stack([masked(name)[None] for name in ("inside", "corner", "nothing")])
    given = tensors(np.stack([x] * 3), masks, weight, bias, dtype=torch.float64)
    found, alive = partial_conv_reference(*given)
    for i in range(3):
        expected, expected_mask = conv_by_formula(x, masks[i, 0], weight, bias)
        assert_close(found[i], expected, torch.float64)
        np.testing.assert_array_equal(alive[i, 0], expected_mask)


def rows_of(mask: Floats, kernel: int, stride: int, pad: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """For every alive cell, the rows of a table of pixels that its window reads, and which cells these are.

    Holes and cells outside read the zero row after the last pixel.
    """
    height, width = mask.shape
    high, wide = (height + 2 * pad - kernel) // stride + 1, (width + 2 * pad - kernel) // stride + 1
    sources, cells = [], []
    for y, x in product(range(high), range(wide)):
        reads = []
        for dy, dx in product(range(kernel), repeat=2):
            row, col = y * stride - pad + dy, x * stride - pad + dx
            inside = 0 <= row < height and 0 <= col < width and mask[row, col] == 1
            reads.append(row * width + col if inside else height * width)
        if min(reads) < height * width:
            sources.append(reads)
            cells.append(y * wide + x)
    return np.array(sources, np.int32), np.array(cells)


def table_of(x: Floats, dtype: torch.dtype) -> Tensor:
    rows = torch.from_numpy(x.reshape(len(x), -1).T.copy()).to(dtype)
    return torch.cat([rows, rows.new_zeros(1, rows.shape[1])])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("hole", [name for name in HOLES if name != "everything"])
def test_rows_are_the_reference(hole: str, kernel: int, dtype: torch.dtype) -> None:
    mask, (x, weight, bias) = masked(hole), problem(kernel)
    given = tensors(x[None], mask[None, None], weight, bias, dtype=torch.float64)
    reference, _ = partial_conv_reference(*given)
    sources, cells = rows_of(mask, kernel, 1, kernel // 2)
    scale = kernel**2 / (sources != 9 * 13).sum(axis=1, keepdims=True)
    found = partial_conv_rows(
        table_of(x, dtype),
        torch.from_numpy(sources),
        torch.from_numpy(scale).to(dtype),
        weight_rows(given[2]).to(dtype),
        given[3].to(dtype),
    )
    assert_close(found.T, reference[0].flatten(1)[:, cells], dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("hole", HOLES)
def test_pooling_is_the_formula(hole: str, size: int, dtype: torch.dtype) -> None:
    """Values below zero as well, though only values after ReLU meet a mask in the networks."""
    mask, (x, _, _) = masked(hole), problem(3)
    expected, alive = pool_by_formula(x, mask, size)
    given, given_mask = tensors(x[None], mask[None, None], dtype=dtype)
    found, found_mask = max_pool_reference(given, given_mask, size)
    np.testing.assert_array_equal(found_mask[0, 0], alive)
    if hole == "everything":
        assert not found.any()
    else:
        assert_close(found[0], expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("hole", [name for name in HOLES if name != "everything"])
def test_pooled_rows_are_the_reference(hole: str, size: int, dtype: torch.dtype) -> None:
    mask, (x, _, _) = masked(hole), problem(3)
    x = np.maximum(x, 0)
    given, given_mask = tensors(x[None], mask[None, None], dtype=torch.float64)
    reference, _ = max_pool_reference(given, given_mask, size)
    sources, cells = rows_of(mask, size, size, 0)
    found = max_pool_rows(table_of(x, dtype), torch.from_numpy(sources))
    assert_close(found.T, reference[0].flatten(1)[:, cells], dtype)
