"""Patches, corners and grid subsets as training draws them, and the pixels that stains changed."""

from __future__ import annotations

import numpy as np

from glance_fast.training.sampling import (
    changed_pixels,
    corners_near,
    draw_grid_subset,
    stained_pixels,
)


def test_stained_pixels_counts_what_slicing_counts() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((37, 53)) < 0.3
    corners = np.array([(0, 0), (21, 37), (5, 9), (21, 0)])
    assert stained_pixels(mask, corners, 16).tolist() == [int(mask[y : y + 16, x : x + 16].sum()) for y, x in corners]


def test_patches_near_a_mask_contain_part_of_it() -> None:
    mask = np.zeros((40, 50), bool)
    mask[0, 0] = mask[39, 49] = True
    corners = corners_near(mask, 16, 200, np.random.default_rng(0))
    assert (stained_pixels(mask, corners, 16) >= 1).all()
    assert corners.min() >= 0
    assert (corners.max(0) <= (24, 34)).all()


def test_a_grid_subset_is_the_product_of_distinct_rows_and_columns() -> None:
    subset = draw_grid_subset((4, 6), 3, np.random.default_rng(0))
    assert len(set(subset.rows)) == len(set(subset.cols)) == 3
    assert subset.indices.tolist() == [y * 6 + x for y in subset.rows for x in subset.cols]
    assert draw_grid_subset((4, 6), 9, np.random.default_rng(0)).indices.tolist() == list(range(24))


def test_changed_pixels_counts_what_slicing_counts() -> None:
    mask = np.random.default_rng(0).random((37, 53)) < 0.3
    rows, cols = np.array([(0, 9), (5, 37), (8, 8)]), np.array([(0, 53), (52, 53)])
    expected = [mask[a:b, c:d].sum() for a, b in rows for c, d in cols]
    assert changed_pixels(mask, rows, cols).tolist() == expected
