"""The parity report: every export, and the per-patch loop, against PyTorch's dense pass on real images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from glance_fast.backends.registry import RUNTIME_DEVICE, runnable
from glance_fast.backends.tolerances import relative_error, tolerance
from glance_fast.data.images import read_rgb
from glance_fast.data.meaning import InputSettings, RgbImage
from glance_fast.engine import Engine
from glance_fast.errors import BackendError
from glance_fast.evaluation.array_file import ArrayFile, StoredArray

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


class _TimedBackend:
    """A backend at a precision that scores images, read as the model's `settings` say, timed."""

    def __init__(self, name: str, precision: str, settings: InputSettings, score: Callable[[RgbImage], object]) -> None:
        self.name, self.precision, self._settings, self._score = name, precision, settings, score
        self._seconds: list[float] = []

    def scored(self, images: Sequence[Path], progress: bool) -> Iterator[tuple[NDArray[np.float32], float]]:
        """Map and score of each image, which is read at its turn."""
        if self.name != LOOP:
            self._score(read_rgb(images[0], self._settings))  # untimed: it also makes caches and thread pools
        for path in track(images, self.name, console=Console(stderr=True), disable=not progress, transient=True):
            image = read_rgb(path, self._settings)
            start = time.perf_counter()
            result: Any = self._score(image)
            self._seconds.append(time.perf_counter() - start)
            yield result.map, result.score

    @property
    def ms(self) -> float:
        """Median time per image."""
        return median(self._seconds) * 1e3


class _Reference:
    """The reference's maps, in a file, and its scores."""

    def __init__(self, file: ArrayFile) -> None:
        self._file = file
        self._maps: list[StoredArray] = []
        self._scores: list[float] = []
        self._peaks: list[float] = []

    def add(self, anomaly_map: NDArray[np.float32], score: float) -> None:
        self._maps.append(self._file.append(anomaly_map))
        self._scores.append(score)
        self._peaks.append(float(np.abs(anomaly_map).max()))

    def scored(self) -> Iterator[tuple[NDArray[np.float32], float]]:
        """Map and score of each image."""
        return ((self._file.read(stored), score) for stored, score in zip(self._maps, self._scores, strict=True))

    def parity(self, run: _TimedBackend, count: int, scored: Iterable[tuple[NDArray[np.float32], float]]) -> Parity:
        """The row of a run, from its maps and scores of the first `count` images."""
        from scipy.stats import spearmanr

        scale, expected_scores = max(self._peaks[:count]), self._scores[:count]
        largest, mean, scores = [], [], []
        try:
            for (actual, score), (expected, _) in zip(scored, islice(self.scored(), count), strict=True):
                largest.append(relative_error(actual, expected, scale))
                mean.append(np.abs(actual - expected).mean())
                scores.append(score)
            score_error = relative_error(scores, expected_scores, scale)
        except BackendError as error:
            raise BackendError(f"{run.name}: {error}") from None
        return Parity(
            name=f"{LOOP} against {REFERENCE}" if run.name == LOOP else run.name,
            images=count,
            largest=max(largest),
            within=tolerance("trained map", run.precision),
            mean=float(np.mean(mean)) / scale,
            score=score_error,
            rank=float(spearmanr(scores, expected_scores).statistic) if count > 1 else float("nan"),
            ms=run.ms,
        )


def verify(folder: Path, images: Sequence[Path], loop_images: int = 1, progress: bool = True) -> list[Parity]:
    """Compare every export of a model with PyTorch's dense pass, and that with the loop on the first `loop_images`.

    Images are read one at a time, and the reference's maps are kept in a temporary file, four bytes per pixel. Exports
    that cannot run here are left out. Raises BackendError where a map cannot be compared because a value is not finite,
    SaveError where the maps have no room, and what `read_rgb`, `Engine.load` and `Engine.score` raise.
    """
    torch = Engine.load(folder, backend="torch")
    with ArrayFile() as file:
        reference, run = _Reference(file), _TimedBackend(REFERENCE, "fp32", torch.input_settings, torch.score)
        for anomaly_map, score in run.scored(images, progress):
            reference.add(anomaly_map, score)
        rows = [reference.parity(run, len(images), reference.scored())]
        if first := images[:loop_images]:
            loop = _TimedBackend(LOOP, "fp32", torch.input_settings, lambda image: torch.score(image, method=LOOP))
            rows.insert(0, reference.parity(loop, len(first), loop.scored(first, progress)))
        for backend, precision in runnable(folder):
            engine = Engine.load(folder, backend, RUNTIME_DEVICE[backend], precision)
            run = _TimedBackend(f"{backend} {precision}", precision, torch.input_settings, engine.score)
            rows.append(reference.parity(run, len(images), run.scored(images, progress)))
    return rows
