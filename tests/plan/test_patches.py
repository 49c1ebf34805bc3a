"""Where patches lie, how maps are made of their scores, and the image's score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.ndimage import gaussian_filter1d

from glance_fast.data.resizing import letterbox_window, reflect_indices
from glance_fast.models.smoothing import blur_weights
from glance_fast.plan.patches import IMAGE, FeatureMapSpec, Patches, grid_starts
from glance_fast.postprocessing.anomaly_map import bilinear_indices, image_score, interpolate, map_weights


@pytest.mark.parametrize(
    "side, patch, stride, starts",
    [
        (256, 32, 8, tuple(range(0, 225, 8))),
        (37, 8, 7, (0, 7, 14, 21, 28)),
        (37, 8, 40, (0,)),
        (16, 16, 3, (0,)),
        (17, 16, 1, (0, 1)),
    ],
)
def test_grid_starts(side: int, patch: int, stride: int, starts: tuple[int, ...]) -> None:
    assert grid_starts(side, patch, stride) == starts


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 50))
def test_patches_lie_inside_and_one_more_would_not(side: int, patch: int, stride: int) -> None:
    starts = grid_starts(side, min(patch, side), stride)
    assert starts[0] == 0 and starts[-1] + min(patch, side) <= side < starts[-1] + stride + min(patch, side)
    assert len(starts) == (side - min(patch, side)) // stride + 1


@given(st.integers(1, 200), st.integers(8, 120), st.integers(1, 120), st.integers(1, 40))
def test_weights_of_a_pixel_are_a_mean_of_neighbours(pixels: int, side: int, patch: int, stride: int) -> None:
    patch = min(patch, side)
    weights = map_weights(pixels, Patches(side, patch, stride))
    assert weights.dtype == np.float32
    assert weights.shape == (pixels, len(grid_starts(side, patch, stride)))
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=0, atol=1e-6)
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
    found = map_weights(16, Patches(16, 8, 4)) @ scores
    centres = np.array([4.0, 8.0, 12.0])
    np.testing.assert_allclose(found, np.interp(np.arange(16) + 0.5, centres, scores), rtol=0, atol=1e-6)
    assert (found[:4] == 1).all() and (found[12:] == 0).all()


@pytest.mark.parametrize("pixels", [1, 7, 31, 64, 65, 1000])
@pytest.mark.parametrize("patch, stride", [(8, 8), (13, 5), (64, 3)])
def test_a_map_in_the_images_own_size(pixels: int, patch: int, stride: int) -> None:
    """Places are taken in the image's own pixels, whose centres lie at (i + 1/2) / pixels of the side."""
    scores = np.random.default_rng(0).random(len(grid_starts(64, patch, stride)))
    centres = (np.array(grid_starts(64, patch, stride)) + patch / 2) * pixels / 64
    expected = np.interp(np.arange(pixels) + 0.5, centres, scores)
    found = map_weights(pixels, Patches(64, patch, stride)) @ scores
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_a_grid_of_one_value_is_a_map_of_it() -> None:
    rows, cols = map_weights(50, Patches(37, 11, 4)), map_weights(31, Patches(53, 11, 4))
    found = rows @ np.full((rows.shape[1], cols.shape[1]), 2.5, np.float32) @ cols.T
    assert found.shape == (50, 31)
    np.testing.assert_allclose(found, 2.5, rtol=0, atol=1e-5)


def test_a_map_is_mirrored_with_its_grid() -> None:
    weights = map_weights(33, Patches(40, 8, 8))
    np.testing.assert_allclose(weights[::-1, ::-1], weights, rtol=0, atol=1e-6)


def test_the_images_score_is_the_mean_of_the_highest() -> None:
    grid = np.array([[1, 7, 3], [5, 2, 6]], np.float32)
    assert [image_score(grid, top) for top in (1, 2, 3, 6, 100)] == [7, 6.5, 6, 4, 4]
    assert type(image_score(grid, 1)) is float
    np.testing.assert_array_equal(grid, [[1, 7, 3], [5, 2, 6]])


def test_patches_that_overhang_start_before_the_image_and_end_behind_it() -> None:
    assert grid_starts(20, 9, 4, 3) == (-3, 1, 5, 9, 13)
    weights = map_weights(20, Patches(20, 9, 4, 3))
    for i, start in enumerate(grid_starts(20, 9, 4, 3)):
        np.testing.assert_array_equal(weights[start + 4], np.eye(5)[i])


def test_what_is_said_of_a_patch_lies_before_its_middle_by_the_lean() -> None:
    weights = map_weights(20, Patches(20, 9, 4, 3, lean=2))
    for i, start in enumerate(grid_starts(20, 9, 4, 3)[1:], 1):
        np.testing.assert_array_equal(weights[start + 4 - 2], np.eye(5)[i])
    np.testing.assert_array_equal(weights[-3:], np.tile(np.eye(5)[4], (3, 1)))


@given(st.integers(1, 30), st.integers(1, 9), st.integers(20, 90), st.integers(0, 40), st.data())
def test_a_reading_s_holes_are_the_cells_that_see_the_patch(
    kernel: int, stride: int, side: int, overhang: int, data: st.DataObject
) -> None:
    spec, whole = FeatureMapSpec(kernel, stride, 3), side + 2 * overhang
    patch = data.draw(st.integers(1, whole))
    start = data.draw(st.integers(0, whole - patch))
    sees = [c for c in range(-40, whole) if stride * c < start + patch and stride * c + kernel > start]
    assert list(spec.hole(start, patch)) == sees
    cells = spec.cells(side, overhang)
    fits = [c for c in range(whole) if stride * c + kernel <= whole]
    middles = [c for c in fits if overhang <= stride * c + (kernel - 1) // 2 < overhang + side]
    assert list(cells) == middles


def test_the_image_itself_is_read_pixel_by_pixel() -> None:
    assert IMAGE.cells(20, 5) == range(5, 25)
    assert IMAGE.hole(7, 9) == range(7, 16)


@pytest.mark.parametrize("count, sigma", [(1, 0.75), (5, 0.5), (17, 0.75), (17, 2.0), (9, 6.0)])
def test_blur_weights_are_scipys_gaussian(count: int, sigma: float) -> None:
    values = np.random.default_rng(0).normal(size=count)
    expected = gaussian_filter1d(values, sigma, mode="nearest")
    np.testing.assert_allclose(blur_weights(count, sigma) @ values, expected, rtol=1e-5, atol=1e-6)


def test_no_blur_is_the_identity() -> None:
    np.testing.assert_array_equal(blur_weights(4, 0), np.eye(4))


@pytest.mark.parametrize(
    "pixels, side, patch, stride, overhang", [(50, 37, 8, 7, 0), (37, 37, 19, 4, 9), (9, 48, 48, 8, 0)]
)
def test_interpolating_is_the_product_of_weights(
    pixels: int, side: int, patch: int, stride: int, overhang: int
) -> None:
    count = len(grid_starts(side, patch, stride, overhang))
    grid = np.random.default_rng(0).normal(size=(count, count)).astype(np.float32)
    weights = map_weights(pixels, Patches(side, patch, stride, overhang))
    lies = bilinear_indices(pixels, Patches(side, patch, stride, overhang))
    found = interpolate(grid, lies, lies)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, weights.astype(float) @ grid @ weights.T, rtol=0, atol=1e-6)


def test_a_stretched_image_fills_what_the_networks_see() -> None:
    assert letterbox_window((300, 20), (48, 56), "stretch") == (range(48), range(56))


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(16, 300), st.integers(16, 300))
def test_a_letterboxed_image_keeps_its_aspect_in_the_middle(own: int, across: int, height: int, width: int) -> None:
    rows, cols = letterbox_window((own, across), (height, width), "letterbox")
    assert len(rows) == height or len(cols) == width
    for inside, side in ((rows, height), (cols, width)):
        assert 2 <= len(inside) <= side and inside.start - (side - inside.stop) in (-1, 0)
    scale = min(height / own, width / across)
    assert abs(len(rows) - own * scale) <= 0.5 + 1e-6 or len(rows) == 2
    assert abs(len(cols) - across * scale) <= 0.5 + 1e-6 or len(cols) == 2


@given(st.integers(1, 30), st.integers(0, 100), st.integers(0, 100))
def test_beyond_its_ends_an_axis_is_mirrored(length: int, before: int, after: int) -> None:
    expected = np.pad(np.arange(length), (before, after), mode="symmetric")
    found = reflect_indices(range(before, before + length), before + length + after)
    np.testing.assert_array_equal(found, expected)


def test_a_map_of_a_letterboxed_axis_is_the_part_where_the_image_lies() -> None:
    whole = map_weights(64, Patches(64, 16, 4, 6))
    np.testing.assert_allclose(map_weights(31, Patches(64, 16, 4, 6), range(17, 48)), whole[17:48], atol=1e-6)
