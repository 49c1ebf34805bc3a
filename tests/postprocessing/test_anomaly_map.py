"""From the grid of scores to the map and the image's score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from glance_fast.plan.patches import Patches, grid_starts
from glance_fast.postprocessing.anomaly_map import bilinear_indices, image_score, interpolate, map_weights
from tests.helpers.tolerances import assert_near


@given(st.integers(1, 200), st.integers(8, 120), st.integers(1, 120), st.integers(1, 40))
def test_weights_of_a_pixel_are_a_mean_of_neighbours(pixels: int, side: int, patch: int, stride: int) -> None:
    patch = min(patch, side)
    weights = map_weights(pixels, Patches(side, patch, stride))
    assert weights.dtype == np.float32
    assert weights.shape == (pixels, len(grid_starts(side, patch, stride)))
    assert_near(weights.sum(axis=1), np.ones(pixels), "interpolation")
    assert weights.min() >= 0 and ((weights > 0).sum(axis=1) <= 2).all()
    for row in weights:
        used = np.flatnonzero(row)
        assert used[-1] - used[0] <= 1


def test_a_pixel_at_a_patchs_centre_has_its_score() -> None:
    """Odd patches have a pixel in the middle: there the map is the patch's score itself."""
    weights = map_weights(40, Patches(40, 9, 5))
    for i, start in enumerate(grid_starts(40, 9, 5)):
        np.testing.assert_array_equal(weights[start + 4], np.eye(7)[i])


def test_between_centres_the_map_is_linear_and_beyond_them_constant() -> None:
    scores = np.array([1.0, 3.0, 0.0])
    actual = map_weights(16, Patches(16, 8, 4)) @ scores
    centres = np.array([4.0, 8.0, 12.0])
    assert_near(actual, np.interp(np.arange(16) + 0.5, centres, scores), "interpolation")
    assert (actual[:4] == 1).all() and (actual[12:] == 0).all()


@pytest.mark.parametrize("pixels", [1, 7, 31, 64, 65, 1000])
@pytest.mark.parametrize("patch, stride", [(8, 8), (13, 5), (64, 3)])
def test_a_map_in_the_images_own_size(pixels: int, patch: int, stride: int) -> None:
    """Places are taken in the image's own pixels, whose centres lie at (i + 1/2) / pixels of the side."""
    scores = np.random.default_rng(0).random(len(grid_starts(64, patch, stride)))
    centres = (np.array(grid_starts(64, patch, stride)) + patch / 2) * pixels / 64
    expected = np.interp(np.arange(pixels) + 0.5, centres, scores)
    actual = map_weights(pixels, Patches(64, patch, stride)) @ scores
    assert_near(actual, expected, "interpolation")


def test_a_grid_of_one_value_is_a_map_of_it() -> None:
    rows, cols = map_weights(50, Patches(37, 11, 4)), map_weights(31, Patches(53, 11, 4))
    actual = rows @ np.full((rows.shape[1], cols.shape[1]), 2.5, np.float32) @ cols.T
    assert actual.shape == (50, 31)
    assert_near(actual, np.full((50, 31), 2.5), "interpolation")


def test_a_map_is_mirrored_with_its_grid() -> None:
    weights = map_weights(33, Patches(40, 8, 8))
    assert_near(weights[::-1, ::-1], weights, "interpolation")


def test_the_images_score_is_the_mean_of_the_highest() -> None:
    grid = np.array([[1, 7, 3], [5, 2, 6]], np.float32)
    assert [image_score(grid, top) for top in (1, 2, 3, 6, 100)] == [7, 6.5, 6, 4, 4]
    assert type(image_score(grid, 1)) is float
    np.testing.assert_array_equal(grid, [[1, 7, 3], [5, 2, 6]])


def test_patches_with_border_padding_start_before_the_image_and_end_after_it() -> None:
    assert grid_starts(20, 9, 4, 3) == (-3, 1, 5, 9, 13)
    weights = map_weights(20, Patches(20, 9, 4, 3))
    for i, start in enumerate(grid_starts(20, 9, 4, 3)):
        np.testing.assert_array_equal(weights[start + 4], np.eye(5)[i])


def test_a_patch_scores_the_point_center_offset_pixels_before_its_centre() -> None:
    weights = map_weights(20, Patches(20, 9, 4, 3, center_offset=2))
    for i, start in enumerate(grid_starts(20, 9, 4, 3)[1:], 1):
        np.testing.assert_array_equal(weights[start + 4 - 2], np.eye(5)[i])
    np.testing.assert_array_equal(weights[-3:], np.tile(np.eye(5)[4], (3, 1)))


@pytest.mark.parametrize(
    "pixels, side, patch, stride, border_padding", [(50, 37, 8, 7, 0), (37, 37, 19, 4, 9), (9, 48, 48, 8, 0)]
)
def test_interpolating_is_the_product_of_weights(
    pixels: int, side: int, patch: int, stride: int, border_padding: int
) -> None:
    count = len(grid_starts(side, patch, stride, border_padding))
    grid = np.random.default_rng(0).normal(size=(count, count)).astype(np.float32)
    weights = map_weights(pixels, Patches(side, patch, stride, border_padding))
    lies = bilinear_indices(pixels, Patches(side, patch, stride, border_padding))
    actual = interpolate(grid, lies, lies)
    assert actual.dtype == np.float32
    assert_near(actual, weights.astype(float) @ grid @ weights.T, "interpolation")


def test_a_map_of_a_letterboxed_axis_is_the_part_where_the_image_lies() -> None:
    whole = map_weights(64, Patches(64, 16, 4, 6))
    assert_near(map_weights(31, Patches(64, 16, 4, 6), range(17, 48)), whole[17:48], "interpolation")
