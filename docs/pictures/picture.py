"""Pictures that carry figures: saved with the digest of what they show; `--check` compares it and saves nothing."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import ArrayLike
from PIL import Image

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parents[1] / "bench" / "results"
DIGEST = "Digest"


def save(figure: Figure, name: str, **options: Any) -> None:
    """Save a figure as docs/pictures/`name`.png; with `--check` raises SystemExit where the file shows other things."""
    file, digest = HERE / f"{name}.png", digest_of(figure)
    if sys.argv[1:] != ["--check"]:
        figure.savefig(file, metadata={DIGEST: digest}, **options)
    elif Image.open(file).info.get(DIGEST) != digest:
        raise SystemExit(f"{file.name} is not what its rows say; run python docs/pictures/{Path(sys.argv[0]).name}")


def digest_of(figure: Figure) -> str:
    """SHA-256 of the texts, coordinates and images that a figure shows, not of their looks."""
    figure.draw_without_rendering()  # which labels the ticks
    texts = [text.get_text() for text in cast("list[Text]", figure.findobj(Text))]
    coordinates = [rounded(values) for axes in figure.axes for values in data_of(axes)]
    return hashlib.sha256("\n".join([*texts, *coordinates]).encode()).hexdigest()


def data_of(axes: Axes) -> Iterator[Any]:
    """Coordinates of lines, patches and points, and the values of images."""
    yield from (line.get_xydata() for line in axes.lines)
    yield from (patch.get_patch_transform().transform(patch.get_path().vertices) for patch in axes.patches)
    yield from (points.get_offsets() for points in axes.collections if isinstance(points, PathCollection))
    yield from (image.get_array() for image in axes.images)


def rounded(values: ArrayLike) -> str:
    """Numbers with six digits: more may differ between machines."""
    return " ".join(f"{value:.6g}" for value in np.ravel(np.asarray(values, float)))
