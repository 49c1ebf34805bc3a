"""The parity report: every exported form beside the loop and the dense pass, on real images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from glance_fast.backends.registry import PLACES, runnable
from glance_fast.data.images import Pixels, read_image
from glance_fast.engine import Engine

LOOP, REFERENCE = "loop", "torch"


@dataclass(frozen=True)
class Parity:
    """How near one form's maps are to the reference's: differences as shares of the reference's largest value.

    `rank`: Spearman's correlation of the images' scores with the reference's; NaN for fewer than two images.
    `images` were compared; `ms` is the median time of one.
    """

    name: str
    images: int
    largest: float
    mean: float
    score: float
    rank: float
    ms: float


@dataclass(frozen=True)
class _Seen:
    maps: list[NDArray[np.float32]]
    scores: list[float]
    ms: float


def verify(folder: Path, images: Sequence[Path], loop_images: int = 1, progress: bool = True) -> list[Parity]:
    """Compare every export of a model with PyTorch's dense pass, and that with the loop on `loop_images` of the images.

    Exports that cannot run here are left out.

    Raises what `Engine.load` and `Engine.score` raise.
    """
    pixels = [read_image(path) for path in images]
    torch = Engine.load(folder, backend="torch")
    runs: dict[str, Callable[[Pixels], object]] = {REFERENCE: torch.score}
    for backend, precision in runnable(folder):
        runs[f"{backend} {precision}"] = Engine.load(folder, backend, PLACES[backend], precision).score
    seen = {name: _look(name, run, pixels, progress) for name, run in runs.items()}
    some = pixels[:loop_images]
    loop = _look(LOOP, lambda image: torch.score(image, method=LOOP), some, progress) if some else None
    rows = [_parity(f"{LOOP} against {REFERENCE}", loop, seen[REFERENCE])] if loop else []
    return [*rows, *(_parity(name, mine, seen[REFERENCE]) for name, mine in seen.items())]


def _look(name: str, run: Callable[[Pixels], object], images: Sequence[Pixels], progress: bool) -> _Seen:
    run(images[0]) if name != LOOP else None  # what is made at a first run is no image's time
    maps, scores, seconds = [], [], []
    for image in track(images, name, console=Console(stderr=True), disable=not progress, transient=True):
        start = time.perf_counter()
        result = run(image)
        seconds.append(time.perf_counter() - start)
        maps.append(result.map)  # type: ignore[attr-defined]
        scores.append(result.score)  # type: ignore[attr-defined]
    return _Seen(maps, scores, median(seconds) * 1e3)


def _parity(name: str, mine: _Seen, reference: _Seen) -> Parity:
    from scipy.stats import spearmanr

    count = len(mine.maps)
    scale = max(float(np.abs(one).max()) for one in reference.maps[:count])
    apart = [np.abs(a - b) for a, b in zip(mine.maps, reference.maps[:count], strict=True)]
    scores = np.abs(np.subtract(mine.scores, reference.scores[:count]))
    return Parity(
        name=name,
        images=count,
        largest=max(float(one.max()) for one in apart) / scale,
        mean=float(np.mean([one.mean() for one in apart])) / scale,
        score=float(scores.max()) / scale,
        rank=float(spearmanr(mine.scores, reference.scores[:count]).statistic) if count > 1 else float("nan"),
        ms=mine.ms,
    )
