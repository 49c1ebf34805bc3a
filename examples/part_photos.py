"""Photographs of one part under a fixed camera, in MVTec AD's layout: the data of the other examples.

Run: python examples/part_photos.py parts

The part is a piece of scikit-image's photograph of bricks. Between photographs it moves by up to four pixels and the
light changes by up to a tenth, as on a line. Defective test photographs have a dark hole, with a mask of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image, ImageDraw


def photograph(rng: np.random.Generator, side: int) -> Image.Image:
    """One normal photograph, `side` pixels square, RGB."""
    y, x = 40 + rng.integers(-4, 5, 2)
    part = skimage.data.brick()[y : y + side, x : x + side]  # type: ignore[no-untyped-call]
    light = rng.uniform(0.9, 1.1) + rng.normal(0, 0.03, part.shape)
    pixels: NDArray[np.uint8] = (part * light).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert("RGB")


def with_hole(photo: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """The photograph with a dark hole at a random position, and the mask of the hole."""
    mask = Image.new("L", photo.size)
    x, y = rng.integers(photo.width // 4, 3 * photo.width // 4, 2)
    radius = int(rng.integers(photo.width // 24, photo.width // 14))
    ImageDraw.Draw(mask).ellipse([x - radius, y - radius, x + radius, y + radius], fill=255)
    return Image.composite(Image.new("RGB", photo.size, (20, 18, 16)), photo, mask), mask


def make_photos(folder: Path, side: int = 128, train: int = 160, test: int = 8) -> None:
    """Fill `folder`: train/good, test/good, test/hole and ground_truth/hole."""
    rng = np.random.default_rng(0)
    for name in ("train/good", "test/good", "test/hole", "ground_truth/hole"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i in range(train):
        photograph(rng, side).save(folder / f"train/good/{i:03}.png")
    for i in range(test):
        photograph(rng, side).save(folder / f"test/good/{i:03}.png")
        photo, mask = with_hole(photograph(rng, side), rng)
        photo.save(folder / f"test/hole/{i:03}.png")
        mask.save(folder / f"ground_truth/hole/{i:03}_mask.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=160, help="normal photographs to train on")
    parser.add_argument("--test", type=int, default=8, help="test photographs per class")
    options = parser.parse_args()
    make_photos(options.folder, train=options.train, test=options.test)
