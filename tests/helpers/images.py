"""Images that tests score: textured, or noise, in memory and as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glance_fast.models.model import GlanceModel

Pixels = NDArray[np.uint8]


def textured_image(height: int, width: int, seed: int = 0) -> Pixels:
    """A smooth pattern with grain and a dark square, [H, W, 3]."""
    rng = np.random.default_rng([height, width, seed])
    wave = np.sin(np.arange(height)[:, None] / 5 + seed) * np.cos(np.arange(width)[None, :] / 7)
    grain = rng.normal(0, 12, (height, width, 3))
    image: NDArray[np.float64] = 128 + 60 * wave[..., None] * np.array([1, 0.5, -1]) + grain
    image[height // 3 : height // 2, width // 3 : width // 2] = 10
    pixels: Pixels = image.clip(0, 255).astype(np.uint8)
    return pixels


def model_images(model: GlanceModel, count: int) -> Pixels:
    """Textured images of the size that a model sees, [count, H, W, 3]."""
    return np.stack([textured_image(*model.config.image_size, seed) for seed in range(count)])


def noise_images(shape: tuple[int, ...], seed: int = 0, low: int = 0, high: int = 256) -> Pixels:
    """Grey levels from `low` to `high`, the latter excluded, without any pattern."""
    return np.random.default_rng(seed).integers(low, high, shape, dtype=np.uint8)


def save_image(path: Path, pixels: NDArray[Any]) -> Path:
    """Save an image, and make the folders that lead to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def save_images(folder: Path, count: int, size: tuple[int, int] = (48, 56)) -> list[Path]:
    """Textured images as 00.png, 01.png, ... of a folder."""
    return [save_image(folder / f"{seed:02}.png", textured_image(*size, seed)) for seed in range(count)]


def empty_files(folder: Path, *names: str) -> Path:
    """Empty files below a folder, for tests in which names alone decide; returns the folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def relative_names(paths: Sequence[Path], folder: Path) -> list[str]:
    """The paths as they are below a folder."""
    return [path.relative_to(folder).as_posix() for path in paths]
