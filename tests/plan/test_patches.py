"""Where patches lie, and which cells of a feature map see them."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from glance_fast.plan.patches import IMAGE, FeatureMapSpec, grid_starts


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


@given(st.integers(1, 30), st.integers(1, 9), st.integers(20, 90), st.integers(0, 40), st.data())
def test_the_holes_of_a_feature_map_are_the_cells_that_see_the_patch(
    kernel: int, stride: int, side: int, border_padding: int, data: st.DataObject
) -> None:
    spec, whole = FeatureMapSpec(kernel, stride, 3), side + 2 * border_padding
    patch = data.draw(st.integers(1, whole))
    start = data.draw(st.integers(0, whole - patch))
    sees = [c for c in range(-40, whole) if stride * c < start + patch and stride * c + kernel > start]
    assert list(spec.hole(start, patch)) == sees
    cells = spec.cells(side, border_padding)
    fits = [c for c in range(whole) if stride * c + kernel <= whole]
    middles = [c for c in fits if border_padding <= stride * c + (kernel - 1) // 2 < border_padding + side]
    assert list(cells) == middles


def test_the_image_itself_is_read_pixel_by_pixel() -> None:
    assert IMAGE.cells(20, 5) == range(5, 25)
    assert IMAGE.hole(7, 9) == range(7, 16)
