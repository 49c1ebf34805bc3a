"""Photographs that teach nothing: copies, single colours, too few of others; found before any training."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glance_fast.errors import DataError
from glance_fast.storage.model_folder import read_model
from glance_fast.training.dataset import read_split
from glance_fast.training.train import Job, train_model
from tests.helpers.images import noise_images, save_image, save_images, textured_image
from tests.helpers.models import tiny_config
from tests.helpers.training import TRAIN

# A false-alarm rate of 0.25 needs 3 held-out images.
MINIMUM = 5


def copies(folder: Path, count: int) -> None:
    for number in range(count):
        save_image(folder / f"copy{number}.png", textured_image(48, 56))


def uniform(folder: Path, count: int) -> None:
    """Black images, and grey ones with the noise of a covered camera."""
    for number in range(count):
        pixels = noise_images((480, 560, 3), number, 20 * number, 20 * number + 1 + number % 2)
        save_image(folder / f"dark{number}.png", pixels)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (copies, r"30 normal images, 29 copies of others \(copy1\.png \.\.\.\) among them: 1 can be used"),
        (uniform, r"normal images, \d+ of a single colour \(dark0\.png \.\.\.\) among them: 0 can be used"),
    ],
)
def test_images_that_are_all_alike_are_an_error(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path, 30 if make is copies else 10)
    started = time.monotonic()
    with pytest.raises(DataError, match=message + rf"; training.* needs {MINIMUM}: give {MINIMUM} or more"):
        train_model(Job(tmp_path, tmp_path / "model"), tiny_config(), TRAIN)
    assert time.monotonic() - started < 30
    assert not (tmp_path / "model.training").exists()


@pytest.mark.parametrize("make", [copies, uniform])
def test_unusable_images_among_others_are_left_out_with_a_warning(
    tmp_path: Path, make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    save_images(tmp_path, 10)
    make(tmp_path, 3)
    split = read_split(tmp_path, tiny_config(), TRAIN)
    assert len(split.train) + len(split.held_out) == 10
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "13 normal images, 3 " in record.message and "10 can be" in record.message


def test_near_copies_give_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As those of a camera that stands still before one part: they differ in noise alone."""
    part = textured_image(48, 56)
    for number in range(8):
        save_image(tmp_path / f"{number}.png", part + noise_images(part.shape, number, 0, 2) * (part < 255))
    read_split(tmp_path, tiny_config(), TRAIN)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "differ by 0." in record.message


def test_images_of_different_parts_give_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_images(tmp_path, 8)
    read_split(tmp_path, tiny_config(), TRAIN)
    assert caplog.records == []


@pytest.mark.parametrize("changes", [{}, {"location_whitening": True}], ids=["plain", "whitened"])
def test_the_number_that_the_error_asks_for_trains(tmp_path: Path, changes: dict[str, Any]) -> None:
    data, config = tmp_path / "data", tiny_config(**changes)
    paths = save_images(data, MINIMUM)
    paths[-1].rename(tmp_path / "last.png")
    with pytest.raises(DataError, match=rf"4 normal images; training.* needs {MINIMUM}: give {MINIMUM} or more"):
        train_model(Job(data, tmp_path / "model"), config, TRAIN)
    (tmp_path / "last.png").rename(paths[-1])
    calibration = train_model(Job(data, tmp_path / "model"), config, TRAIN)
    assert abs(calibration.threshold) < 100 and np.isfinite(calibration.pixel_threshold)
    assert read_model(tmp_path / "model").metadata["normal images"] == "2 trained on, 3 held out"


def test_calibration_images_must_be_different_too(tmp_path: Path) -> None:
    save_images(tmp_path / "data", 4)
    copies(tmp_path / "others", 9)
    with pytest.raises(DataError, match=r"others has 9 normal images, 8 copies .* calibration to .* needs 3: give 3"):
        read_split(tmp_path / "data", tiny_config(), TRAIN, tmp_path / "others")


def test_at_least_two_images_are_trained_on_whatever_is_held_out(tmp_path: Path) -> None:
    save_images(tmp_path, 8)
    split = read_split(tmp_path, tiny_config(), TRAIN.model_copy(update={"calibration_fraction": 0.99}))
    assert (len(split.train), len(split.held_out)) == (2, 6)
