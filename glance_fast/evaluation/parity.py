"""The parity report: every export, and the per-patch loop, against PyTorch's dense pass on real images."""

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

from glance_fast.backends.registry import RUNTIME_DEVICE, runnable
from glance_fast.data.images import Pixels, read_image
from glance_fast.engine import Engine
from glance_fast.errors import BackendError
from glance_fast.evaluation.tolerances import relative_error, tolerance

LOOP, REFERENCE = "loop", "torch"


@dataclass(frozen=True)
class Parity:
    """How near the maps of an export are to the reference's: differences over the reference's largest value.

    `largest` and `mean` are over all pixels of all images, `score` is the largest of the image scores; `within` is the
    tolerance for `largest` at the export's precision. `rank`: Spearman's correlation of the images' scores with the
    reference's; NaN for fewer than two images. `images` were compared; `ms` is the median time per image.
    """

    name: str
    images: int
    largest: float
    within: float
    mean: float
    score: float
    rank: float
    ms: float


@dataclass(frozen=True)
class _ScoredImages:
    """Maps and scores of the same images from one backend, and the median time per image."""

    maps: list[NDArray[np.float32]]
    scores: list[float]
    ms: float


def verify(folder: Path, images: Sequence[Path], loop_images: int = 1, progress: bool = True) -> list[Parity]:
    """Compare every export of a model with PyTorch's dense pass, and that with the loop on the first `loop_images`.

    Exports that cannot run here are left out. Raises BackendError where a map cannot be compared because a value is
    not finite, and what `Engine.load` and `Engine.score` raise.
    """
    pixels = [read_image(path) for path in images]
    torch = Engine.load(folder, backend="torch")
    runs: dict[tuple[str, str], Callable[[Pixels], object]] = {(REFERENCE, "fp32"): torch.score}
    for backend, precision in runnable(folder):
        engine = Engine.load(folder, backend, RUNTIME_DEVICE[backend], precision)
        runs[f"{backend} {precision}", precision] = engine.score
    scored = {key: _score_images(key[0], run, pixels, progress) for key, run in runs.items()}
    reference = scored[REFERENCE, "fp32"]
    rows = []
    if first := pixels[:loop_images]:
        loop = _score_images(LOOP, lambda image: torch.score(image, method=LOOP), first, progress)
        rows = [_parity((f"{LOOP} against {REFERENCE}", "fp32"), loop, reference)]
    return [*rows, *(_parity(key, images, reference) for key, images in scored.items())]


def _score_images(
    name: str, run: Callable[[Pixels], object], images: Sequence[Pixels], progress: bool
) -> _ScoredImages:
    run(images[0]) if name != LOOP else None  # untimed: the first run also makes caches and thread pools
    maps, scores, seconds = [], [], []
    for image in track(images, name, console=Console(stderr=True), disable=not progress, transient=True):
        start = time.perf_counter()
        result = run(image)
        seconds.append(time.perf_counter() - start)
        maps.append(result.map)  # type: ignore[attr-defined]
        scores.append(result.score)  # type: ignore[attr-defined]
    return _ScoredImages(maps, scores, median(seconds) * 1e3)


def _parity(key: tuple[str, str], scored: _ScoredImages, reference: _ScoredImages) -> Parity:
    """The row of a name and a precision, over the images that were scored by both."""
    from scipy.stats import spearmanr

    (name, precision), count = key, len(scored.maps)
    expected, expected_scores = reference.maps[:count], reference.scores[:count]
    scale = max(float(np.abs(anomaly_map).max()) for anomaly_map in expected)
    pairs = list(zip(scored.maps, expected, strict=True))
    try:
        largest = max(relative_error(actual, anomaly_map, scale) for actual, anomaly_map in pairs)
        score = relative_error(scored.scores, expected_scores, scale)
    except BackendError as error:
        raise BackendError(f"{name}: {error}") from None
    return Parity(
        name=name,
        images=count,
        largest=largest,
        within=tolerance("trained map", precision),
        mean=float(np.mean([np.abs(actual - anomaly_map).mean() for actual, anomaly_map in pairs])) / scale,
        score=score,
        rank=float(spearmanr(scored.scores, expected_scores).statistic) if count > 1 else float("nan"),
        ms=scored.ms,
    )
