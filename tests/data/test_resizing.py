"""Resizing: within a grey level of Pillow; where a letterboxed image lies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from glance_fast.data.images import resize
from glance_fast.data.resizing import letterbox_window, reflect_indices
from glance_fast.data.tensors import resize_tensor
from tests.helpers.images import noise_images, textured_image


def test_resize_takes_height_before_width_and_smooths() -> None:
    stripes = np.zeros((20, 40, 3), np.uint8)
    stripes[:, ::2] = 255
    small = resize(stripes, (7, 10))
    assert small.shape == (7, 10, 3) and small.dtype == np.uint8
    assert np.abs(small[:, 1:-1].astype(int) - 127).max() < 20  # without smoothing it would be black or white
    assert resize(stripes, (41, 23)).shape == (41, 23, 3)


def test_resize_to_the_same_size_is_the_image_itself() -> None:
    image = noise_images((7, 11, 3))
    assert resize(image, (7, 11)) is image


@pytest.mark.parametrize("target", [(24, 24), (24, 60), (60, 13)])
def test_a_letterboxed_image_is_mirrored_round_its_resized_self(target: tuple[int, int]) -> None:
    image = noise_images((30, 50, 3))
    rows, cols = letterbox_window((30, 50), target, "letterbox")
    around = [(inside.start, side - inside.stop) for inside, side in ((rows, target[0]), (cols, target[1]))]
    expected = np.pad(resize(image, (len(rows), len(cols))), (*around, (0, 0)), mode="symmetric")
    np.testing.assert_array_equal(resize(image, target, "letterbox"), expected)
    assert abs(len(rows) / len(cols) - 0.6) < 0.05


@pytest.mark.parametrize("size", [(16, 16), (37, 53), (48, 57), (300, 200), (1000, 31), (56, 48)], ids=str)
@pytest.mark.parametrize("target", [(48, 56), (17, 5), (256, 256)], ids=str)
@pytest.mark.parametrize("mode", ["stretch", "letterbox"])
def test_resizing_a_tensor_is_within_a_grey_level_of_pillow(
    size: tuple[int, int], target: tuple[int, int], mode: str
) -> None:
    for image in (textured_image(*size), noise_images((*size, 3))):
        resized = resize_tensor(torch.from_numpy(image), target, mode)
        assert resized.dtype == torch.uint8 and resized.shape == (*target, 3)
        difference = np.abs(resized.numpy().astype(int) - resize(image, target, mode).astype(int))
        assert difference.max() <= 1


def test_a_stretched_image_fills_what_the_networks_see() -> None:
    assert letterbox_window((300, 20), (48, 56), "stretch") == (range(48), range(56))


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(16, 300), st.integers(16, 300))
def test_a_letterboxed_image_keeps_its_aspect_in_the_middle(
    image_height: int, image_width: int, height: int, width: int
) -> None:
    rows, cols = letterbox_window((image_height, image_width), (height, width), "letterbox")
    assert len(rows) == height or len(cols) == width
    for inside, side in ((rows, height), (cols, width)):
        assert 2 <= len(inside) <= side and inside.start - (side - inside.stop) in (-1, 0)
    scale = min(height / image_height, width / image_width)
    assert abs(len(rows) - image_height * scale) <= 0.5 + 1e-6 or len(rows) == 2
    assert abs(len(cols) - image_width * scale) <= 0.5 + 1e-6 or len(cols) == 2


@given(st.integers(1, 30), st.integers(0, 100), st.integers(0, 100))
def test_beyond_its_ends_an_axis_is_mirrored(length: int, before: int, after: int) -> None:
    expected = np.pad(np.arange(length), (before, after), mode="symmetric")
    actual = reflect_indices(range(before, before + length), before + length + after)
    np.testing.assert_array_equal(actual, expected)
