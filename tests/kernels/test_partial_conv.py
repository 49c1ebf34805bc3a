"""Partial convolution and masked pooling: references against loops over the formula, rows against those."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from glance_fast.kernels.reference.gather import gather
from glance_fast.kernels.reference.max_pool import max_pool_reference, max_pool_windows
from glance_fast.kernels.reference.partial_conv import (
    add_changes,
    changes,
    partial_conv_reference,
    renormalise,
    tap_weights,
)
from tests.helpers.tolerances import DTYPES, assert_close

Floats = NDArray[np.float64]
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
    inputs = tensors(x[None], mask[None, None], weight, bias, dtype=dtype)
    actual, actual_mask = partial_conv_reference(*inputs)
    np.testing.assert_array_equal(actual_mask[0, 0], alive)
    assert actual_mask.dtype == dtype
    if hole == "everything":
        assert not actual.any() and not alive.any()
    else:
        assert_close(actual[0], expected, dtype)


def test_windows_of_hole_alone_are_zero_whatever_the_bias() -> None:
    mask, (x, weight, _) = masked("inside"), problem(3)
    bias = np.full(3, 7.0)
    inputs = tensors(x[None], mask[None, None], weight, bias, dtype=torch.float64)
    actual, alive = partial_conv_reference(*inputs)
    dead = torch.zeros(9, 13, dtype=torch.bool)
    dead[3:6, 4:8] = True
    assert torch.equal(alive[0, 0] == 0, dead)
    assert (actual[0][:, dead] == 0).all()


def test_without_a_hole_only_the_border_is_renormalised() -> None:
    x, weight, bias = problem(3)
    inputs = tensors(x[None], masked("nothing")[None, None], weight, bias, dtype=torch.float64)
    actual, _ = partial_conv_reference(*inputs)
    plain = torch.nn.functional.conv2d(inputs[0], inputs[2], inputs[3]).relu()
    assert_close(actual[:, :, 1:-1, 1:-1], plain, torch.float64)
    corner = np.einsum("ocij,cij->o", weight[:, :, 1:, 1:], x[:, :2, :2]) * 9 / 4 + bias
    assert_close(actual[0, :, 0, 0], np.maximum(corner, 0), torch.float64)


def test_each_image_of_a_batch_may_have_its_own_mask() -> None:
    x, weight, bias = problem(3)
    masks = np.stack([masked(name)[None] for name in ("inside", "corner", "nothing")])
    inputs = tensors(np.stack([x] * 3), masks, weight, bias, dtype=torch.float64)
    actual, alive = partial_conv_reference(*inputs)
    for i in range(3):
        expected, expected_mask = conv_by_formula(x, masks[i, 0], weight, bias)
        assert_close(actual[i], expected, torch.float64)
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


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("hole", [name for name in HOLES if name != "everything"])
def test_sums_and_changes_are_the_reference(hole: str, kernel: int, dtype: torch.dtype, in_place: bool) -> None:
    """The sum without a hole, less what the hole takes away, renormalised: the formula at every alive cell."""
    mask, (x, weight, bias) = masked(hole), problem(kernel)
    inputs = tensors(x[None], mask[None, None], weight, bias, dtype=torch.float64)
    reference, _ = partial_conv_reference(*inputs)
    sources, cells = rows_of(mask, kernel, 1, kernel // 2)
    scale = torch.from_numpy(kernel**2 / (sources != 9 * 13).sum(axis=1, keepdims=True)).to(dtype)
    whole, _ = rows_of(np.ones((9, 13)), kernel, 1, kernel // 2)
    changed_sources = torch.from_numpy(np.where(sources == whole[cells], 9 * 13, whole[cells]).astype(np.int32))
    sums = F.conv2d(inputs[0], inputs[2], padding=kernel // 2)[0].flatten(1).mT[cells].to(dtype)
    weights, table, base_index = tap_weights(inputs[2].to(dtype)).reshape(-1, 3), table_of(x, dtype), torch.zeros(0)
    if in_place:
        changed = changes(table, base_index.int(), torch.full_like(table, 7))
        windows = gather(changed, changed_sources, torch.full((changed_sources.numel() * 2 + 5,), 7, dtype=dtype))
        add_changes(sums, windows, weights, sums)
        actual = renormalise(sums, scale, inputs[3].to(dtype), sums)
    else:
        windows = gather(changes(table, base_index.int()), changed_sources)
        actual = renormalise(add_changes(sums, windows, weights), scale, inputs[3].to(dtype))
    assert_close(actual.T, reference[0].flatten(1)[:, cells], dtype)


@pytest.mark.parametrize("in_place", [False, True])
def test_changes_are_entries_less_their_base_cells_then_minus_the_base(in_place: bool) -> None:
    table = torch.arange(14.0).reshape(7, 2)
    table[-1] = 0
    base_index = torch.tensor([2, 0], dtype=torch.int32)  # four base cells, two entries, the zero row
    actual = changes(table, base_index, torch.full_like(table, 7) if in_place else None)
    assert torch.equal(actual, torch.cat([table[4:6] - table[[2, 0]], -table[:4], table[6:]]))


def test_tap_weights_of_selected_taps_are_a_matrix() -> None:
    _, weight, _ = problem(3)
    actual = tap_weights(torch.from_numpy(weight))[1:, :2].reshape(-1, 3)
    expected = [weight[o, c, y, x] for y, x, c, o in product((1, 2), (0, 1), range(2), range(3))]
    np.testing.assert_array_equal(actual, np.array(expected).reshape(-1, 3))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("hole", HOLES)
def test_pooling_is_the_formula(hole: str, size: int, dtype: torch.dtype) -> None:
    """Values below zero as well, though only values after ReLU meet a mask in the networks."""
    mask, (x, _, _) = masked(hole), problem(3)
    expected, alive = pool_by_formula(x, mask, size)
    images, mask_tensor = tensors(x[None], mask[None, None], dtype=dtype)
    actual, actual_mask = max_pool_reference(images, mask_tensor, size)
    np.testing.assert_array_equal(actual_mask[0, 0], alive)
    if hole == "everything":
        assert not actual.any()
    else:
        assert_close(actual[0], expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("hole", [name for name in HOLES if name != "everything"])
def test_pooled_windows_are_the_reference(hole: str, size: int, dtype: torch.dtype) -> None:
    mask, (x, _, _) = masked(hole), problem(3)
    x = np.maximum(x, 0)
    images, mask_tensor = tensors(x[None], mask[None, None], dtype=torch.float64)
    reference, _ = max_pool_reference(images, mask_tensor, size)
    sources, cells = rows_of(mask, size, size, 0)
    windows = gather(table_of(x, dtype), torch.from_numpy(sources))
    for out in (None, torch.full((len(cells), 2), 7, dtype=dtype)):
        actual = max_pool_windows(windows, 2, out)
        assert_close(actual.T, reference[0].flatten(1)[:, cells], dtype)
