"""Draw docs/pictures/stains.png, a sheet of every kind of stain with its mask outlined; run it as it is."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from glance_fast.stains import (
    Blob,
    Blur,
    Crack,
    Floats,
    PastedTexture,
    Pit,
    RegionShift,
    Scratch,
    Several,
    Shade,
    Stain,
    Stained,
    default_stains,
)

PICTURE = Path(__file__).resolve().parent / "stains.png"
SIDE, SHARE = 128, 0.05
INK, QUIET, MARK, LINE = "#1f2328", "#59636e", "#ff7a00", "#b34700"


def surfaces() -> list[Floats]:
    """Crops of brick, grass and gravel, tinted: photographs of one channel show no coloured stains."""
    tints = (("brick", (1.0, 0.84, 0.74)), ("grass", (0.86, 1.0, 0.72)), ("gravel", (0.94, 0.95, 1.0)))
    crops = []
    for name, tint in tints:
        grey = getattr(data, name)()[:SIDE, :SIDE].astype(np.float32) / 255
        crops.append((grey[..., None] * np.array(tint, np.float32)).clip(0, 1))
    return crops


def kinds(others: tuple[Floats, ...]) -> list[tuple[str, str, Stain]]:
    """Name, what it does, stain: one row of the sheet each."""
    return [
        ("Blob", "darker, brighter\nor tinted spot", Blob()),
        ("Pit", "small hole with\na lit rim (several)", Several(Pit(), 4, 6)),
        ("Shade", "large and faint", Shade()),
        ("Crack", "jagged, branching", Crack()),
        ("Scratch", "nearly parallel\nlines", Scratch()),
        ("RegionShift", "another place of\nthe same image", RegionShift()),
        ("PastedTexture", "noise, stripes or\nanother surface", PastedTexture(others=others)),
        ("Blur", "lost or gained\nsharpness", Blur()),
        ("default_stains()", "the training mixture", default_stains(others)),
    ]


def best_example(image: Floats, stain: Stain, first: int) -> Stained:
    """Of 16 seeds the stain whose mask comes nearest to SHARE, off the edge: small stains would not be visible."""
    drawn = [stain(image, np.random.default_rng(seed)) for seed in range(first, first + 16)]
    return min(drawn, key=lambda stained: abs(math.log(stained.mask.mean() / SHARE)) + 2 * edge(stained.mask).mean())


def edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask's values round the image's edge."""
    return np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])


def draw_pair(axes: Sequence[Axes], stained: Stained) -> None:
    """The stained image, and a pale copy of it with the mask filled and outlined."""
    pale = stained.image.mean(2, keepdims=True).repeat(3, axis=2) * 0.5 + 0.5
    pale[stained.mask] = 0.45 * pale[stained.mask] + 0.55 * np.array(to_rgb(MARK), np.float32)
    for ax, image in zip(axes, (stained.image, pale), strict=True):
        ax.imshow(image, interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    # A border of False keeps the outline closed where the mask meets the image's edge.
    mask = np.pad(stained.mask, 1).astype(np.float32)
    coordinates = np.arange(-1, SIDE + 1)
    axes[1].contour(coordinates, coordinates, mask, levels=[0.5], colors=LINE, linewidths=0.7)
    axes[1].set(xlim=(-0.5, SIDE - 0.5), ylim=(SIDE - 0.5, -0.5))


def main() -> None:
    crops = surfaces()
    rows = kinds(tuple(crops))
    figure, axes = plt.subplots(len(rows), 6, figsize=(10, 1.42 * len(rows)))
    for row, (name, effect, stain) in enumerate(rows):
        for column, crop in enumerate(crops):
            draw_pair(axes[row, 2 * column : 2 * column + 2], best_example(crop, stain, 100 * row + 20 * column))
        alignment = {"xycoords": "axes fraction", "ha": "right"}
        axes[row, 0].annotate(name, (-0.08, 0.58), va="bottom", color=INK, weight="bold", **alignment)
        axes[row, 0].annotate(effect, (-0.08, 0.54), va="top", color=QUIET, size=9, **alignment)
    figure.subplots_adjust(left=0.16, right=0.995, top=0.995, bottom=0.005, wspace=0.03, hspace=0.03)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=100, facecolor="white")
    # 128 colours look the same here and take a third of the bytes.
    Image.open(picture).convert("RGB").quantize(128).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
