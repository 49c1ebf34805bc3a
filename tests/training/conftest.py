"""The images that runs of training share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def training_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain folder of 12 normal images, grey and in colour, none of the networks' size."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(12):
        shape = (61, 70) if i % 2 else (61, 70, 3)
        Image.fromarray(rng.integers(60, 190, shape, dtype=np.uint8)).save(folder / f"{i}.png")
    return folder
