"""Pixels of masks, and the union of several."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glance_fast.data.masks import read_mask, read_masks
from glance_fast.errors import DataError, ImageError
from tests.helpers.images import empty_files, save_image


def test_a_mask_is_true_from_the_middle_grey(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 127, 128], [255, 1, 200]], np.uint8)).save(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png", (2, 3))
    assert mask.dtype == np.bool_ and mask.tolist() == [[False, False, True], [True, False, True]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_a_mask_of_any_mode_is_read(tmp_path: Path, mode: str) -> None:
    expected = np.random.default_rng(0).random((5, 9)) > 0.5
    Image.fromarray(expected).convert(mode).save(tmp_path / "m.png")
    assert (read_mask(tmp_path / "m.png", (5, 9)) == expected).all()


def test_a_mask_of_16_bits_is_read(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 65535]], np.uint16)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png", (1, 2)).tolist() == [[False, True]]


def test_a_black_mask_marks_nothing(tmp_path: Path) -> None:
    Image.new("L", (3, 2)).save(tmp_path / "m.png")
    assert not read_mask(tmp_path / "m.png", (2, 3)).any()


def test_a_mask_of_class_numbers_is_an_error(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1]], np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(DataError, match=r"m\.png is no brighter than 1 of 255"):
        read_mask(tmp_path / "m.png", (1, 2))


def test_a_mask_of_another_size_is_an_error_that_names_both_sizes(tmp_path: Path) -> None:
    Image.new("L", (9, 5)).save(tmp_path / "m.png")
    with pytest.raises(DataError, match=r"m\.png is 5x9 pixels and its image 9x5 \(height x width\)"):
        read_mask(tmp_path / "m.png", (9, 5))


def test_a_mask_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"m\.png is empty"):
        read_mask(empty_files(tmp_path, "m.png") / "m.png", (1, 1))


def test_several_masks_are_joined(tmp_path: Path) -> None:
    first = save_image(tmp_path / "0.png", np.array([[0, 255, 0]], np.uint8))
    second = save_image(tmp_path / "1.png", np.array([[0, 0, 234]], np.uint8))
    assert read_masks((first, second), (1, 3)).tolist() == [[False, True, True]]
