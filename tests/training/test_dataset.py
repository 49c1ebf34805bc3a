"""Training images: the size that fits their aspect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glance_fast.config import ModelConfig
from glance_fast.errors import DataError, ImageError
from glance_fast.training.dataset import fitting_size, read_photos
from tests.helpers.models import tiny_config


@pytest.mark.parametrize(
    ("shapes", "better"),
    [
        ([(480, 640), (240, 322)], (192, 256)),
        ([(1000, 300)], (256, 80)),
        ([(50, 1000)], (32, 256)),  # not smaller than a patch
        ([(480, 640), (640, 480)], None),
        ([(500, 512)], None),
    ],
)
def test_fitting_size_has_the_aspect_that_all_images_share(
    shapes: list[tuple[int, int]], better: tuple[int, int] | None
) -> None:
    assert fitting_size(shapes, ModelConfig()) == better


@pytest.mark.parametrize("used", [12, 14])
def test_16_bit_images_of_a_smaller_used_range_are_asked_about(tmp_path: Path, used: int) -> None:
    samples = np.linspace(0, 2**used - 1, 24 * 24).astype(np.uint16).reshape(24, 24)
    Image.fromarray(samples).save(tmp_path / "a.png")
    with pytest.raises((DataError, ImageError), match=rf"range of {used} bits.*--set bits={used}.*bits=16"):
        read_photos([tmp_path / "a.png"], tiny_config(image_size=(24, 24)))
    photos = read_photos([tmp_path / "a.png"], tiny_config(image_size=(24, 24), bits=used))
    assert (photos[0, :, :, 0] == np.rint(samples / (2**used - 1) * 255)).all()
    assert read_photos([tmp_path / "a.png"], tiny_config(image_size=(24, 24), bits=16)).max() <= 64


def test_the_log_names_the_fitting_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(np.zeros((60, 120, 3), np.uint8)).save(tmp_path / "wide.png")
    with caplog.at_level("INFO", logger="glance_fast"):
        read_photos([tmp_path / "wide.png"], tiny_config(image_size=(48, 48)))
    assert "--set 'image_size=[24, 48]' has it too, and costs 50% less" in caplog.text
