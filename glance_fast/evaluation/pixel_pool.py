"""The pixels of all maps of an evaluation: sorted per image in a temporary file, read back from the highest down."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from glance_fast.data.datasets import NORMAL
from glance_fast.errors import DataError
from glance_fast.evaluation.array_file import ArrayFile, StoredArray
from glance_fast.evaluation.pixel_curve import Counts, CurveMetrics, CurvePiece, PixelTotals
from glance_fast.evaluation.results import PixelMetrics

ALL = ""  # the curve of all classes together; no class has an empty name
TOUCHING = np.ones((3, 3), np.int64)  # defect pixels that touch at a side or a corner are one region
# What is in memory at a time: distinct values of defect pixels, and normal pixels. The first is met to within
# SAMPLE values per image.
BLOCK, SAMPLE, BATCH = 2**20, 2**12, 2**22


class PixelPool:
    """Pixels of maps [H, W] with masks bool [H, W], True = defect, by classes of defects.

    Each image is sorted as it is added, and its values are written to an ArrayFile in `folder`: four bytes per normal
    pixel of a float32 map, sixteen per distinct value of its defect pixels. The metrics are exact, and their memory
    depends neither on the number nor on the size of the images. A context manager; raises SaveError when the disk
    refuses.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = ArrayFile(folder)
        self._normal: dict[str, list[StoredArray]] = {NORMAL: []}
        self._marked: dict[str, list[StoredArray]] = {NORMAL: []}
        self._totals: dict[str, PixelTotals] = {NORMAL: PixelTotals()}

    def __enter__(self) -> PixelPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.__exit__(kind, error, at)

    def add(self, defect: str, mask: NDArray[np.bool_], values: NDArray[np.floating], source: str) -> None:
        """Add a map of a class of defects, "good" for a normal image.

        Raises DataError, naming `source`, for a mask of another dtype or size than its map.
        """
        if mask.dtype != np.bool_ or mask.ndim != 2 or mask.shape != values.shape:
            raise DataError(
                f"{source} is {mask.dtype} {list(mask.shape)} and its map {list(values.shape)}; "
                "give a bool mask [H, W] of the map's size"
            )
        normal, (marked, regions) = np.sort(values[~mask]), _defect_values(mask, values)
        self._normal.setdefault(defect, []).append(self._file.append(normal.view([("value", normal.dtype)])))
        self._marked.setdefault(defect, []).append(self._file.append(marked))
        totals = PixelTotals(len(normal), values.size - len(normal), regions)
        self._totals[defect] = self._totals.get(defect, PixelTotals()) + totals

    def totals(self) -> dict[str, PixelTotals]:
        """Pixels and regions of every curve: each class with all normal images, and ALL."""
        normal = self._totals[NORMAL]
        classes = {name: totals for name, totals in self._totals.items() if name != NORMAL}
        together = sum(classes.values(), normal)
        return {name: totals + normal for name, totals in classes.items()} | {ALL: together}

    def metrics(self, limit: float) -> dict[str, PixelMetrics]:
        """Metrics of every curve that has defect pixels, by class and ALL; AUPRO up to `limit`."""
        curves = {name: CurveMetrics(totals, limit) for name, totals in self.totals().items() if totals.defect}
        if curves:
            for name, piece in self.pieces():
                if name in curves:
                    curves[name].add(piece)
        return {name: curve.result() for name, curve in curves.items()}

    def pieces(self) -> Iterator[tuple[str, CurvePiece]]:
        """Every curve's pieces, from its highest values down, with the curve's name."""
        normal = {name: [_Descent(self._file, run) for run in runs] for name, runs in self._normal.items()}
        marked = {name: [_Descent(self._file, run) for run in runs] for name, runs in self._marked.items()}
        for low in self._bounds():
            merged = {name: _merged(runs, low) for name, runs in marked.items() if name != NORMAL}
            values = np.unique(np.concatenate([defect.values for defect in merged.values()]))
            good = together = _count(normal[NORMAL], low, values)
            pixels, overlap = np.zeros(len(values), np.int64), np.zeros(len(values))
            for name, defect in merged.items():
                own = _count(normal[name], low, values)
                at = np.searchsorted(values, defect.values)
                yield name, defect.piece((good + own).at(at))
                together += own
                pixels[at] += defect.pixels
                overlap[at] += defect.overlap
            yield ALL, _DefectValues(values, pixels, overlap).piece(together)

    def _bounds(self) -> list[float]:
        """The lowest value of each block, falling; a block has about BLOCK distinct values of defect pixels."""
        runs = [run for of_class in self._marked.values() for run in of_class]
        samples = sorted(
            float(self._file.read(run, index, index + 1)["value"][0])
            for run in runs
            for index in range(0, len(run), SAMPLE)
        )
        step = BLOCK // SAMPLE
        return [*sorted(set(samples[-step::-step]), reverse=True), -np.inf]


@dataclass(frozen=True)
class _DefectValues:
    """Distinct values of defect pixels, rising, with their pixels and the overlap that they add, each [k]."""

    values: NDArray[np.floating]
    pixels: Counts
    overlap: NDArray[np.float64]

    def piece(self, normal: _NormalCounts) -> CurvePiece:
        return CurvePiece(self.values, self.pixels, self.overlap, normal.above, normal.at_or_above, normal.pixels)


@dataclass(frozen=True)
class _NormalCounts:
    """Normal pixels of a block above values [k] and at or above them, and all of them."""

    above: Counts
    at_or_above: Counts
    pixels: int

    def __add__(self, other: _NormalCounts) -> _NormalCounts:
        return _NormalCounts(self.above + other.above, self.at_or_above + other.at_or_above, self.pixels + other.pixels)

    def at(self, index: NDArray[np.intp]) -> _NormalCounts:
        return _NormalCounts(self.above[index], self.at_or_above[index], self.pixels)


class _Descent:
    """Reads a stored array, whose field "value" rises, from its end."""

    def __init__(self, file: ArrayFile, run: StoredArray) -> None:
        self._file, self._run, self._stop = file, run, len(run)

    def down_to(self, low: float) -> Iterator[NDArray[Any]]:
        """What is left with values of at least `low`, in arrays of at most BATCH."""
        start = bisect_left(range(self._stop), low, key=self._value)
        stop, self._stop = self._stop, start
        for first in range(start, stop, BATCH):
            yield self._file.read(self._run, first, min(first + BATCH, stop))

    def _value(self, index: int) -> float:
        return float(self._file.read(self._run, index, index + 1)["value"][0])


def _defect_values(mask: NDArray[np.bool_], values: NDArray[np.floating]) -> tuple[NDArray[Any], int]:
    """The distinct values of an image's defect pixels, with their pixels and overlap, and the number of its regions.

    The overlap of a pixel is its share of its own region.
    """
    labels, regions = ndimage.label(mask, TOUCHING)
    of_pixel = labels[mask]
    distinct, index, counts = np.unique(values[mask], return_inverse=True, return_counts=True)
    marked = np.empty(len(distinct), [("value", values.dtype), ("pixels", np.uint32), ("overlap", np.float64)])
    marked["value"], marked["pixels"] = distinct, counts
    marked["overlap"] = np.bincount(index, 1 / np.bincount(of_pixel)[of_pixel], len(distinct))
    return marked, regions


def _merged(runs: Iterable[_Descent], low: float) -> _DefectValues:
    """The distinct values of at least `low` that are left in these runs of defect pixels."""
    empty = np.empty(0, [("value", np.float32), ("pixels", np.uint32), ("overlap", np.float64)])
    parts = np.concatenate([empty, *(part for run in runs for part in run.down_to(low))])
    values, index = np.unique(parts["value"], return_inverse=True)
    pixels = np.bincount(index, parts["pixels"], len(values)).astype(np.int64)  # exact below 2⁵³
    overlap: NDArray[np.float64] = np.bincount(index, parts["overlap"], len(values)).astype(np.float64)
    return _DefectValues(values, pixels, overlap)


def _count(runs: Iterable[_Descent], low: float, values: NDArray[np.floating]) -> _NormalCounts:
    """The normal pixels of at least `low` that are left in these runs, counted at `values` [k]."""
    above, at_or_above, pixels = np.zeros(len(values), np.int64), np.zeros(len(values), np.int64), 0
    for batch in _sorted_batches(runs, low):
        pixels += len(batch)
        above += len(batch) - np.searchsorted(batch, values, side="right")
        at_or_above += len(batch) - np.searchsorted(batch, values, side="left")
    return _NormalCounts(above, at_or_above, pixels)


def _sorted_batches(runs: Iterable[_Descent], low: float) -> Iterator[NDArray[np.floating]]:
    """The values of at least `low` that are left in these runs, sorted in batches of BATCH to twice as many."""
    parts: list[NDArray[np.floating]] = []
    size = 0
    for run in runs:
        for part in run.down_to(low):
            parts.append(part["value"])
            size += len(part)
            if size >= BATCH:
                yield np.sort(np.concatenate(parts))
                parts, size = [], 0
    if parts:
        yield np.sort(np.concatenate(parts))
