"""Pixel metrics of a curve that comes in pieces, from the highest values down, so that it need never be held whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glance_fast.evaluation.results import PixelMetrics

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class CurvePiece:
    """All pixels of a range of values, at the k distinct values of its defect pixels.

    A curve can bend only there: between two of them no defect pixel is added. Arrays [k], values rising:
    `defect_pixels` of each value and the `overlap` that they add, in regions; normal pixels of this piece `above` each
    value and `at_or_above` it. `normal_pixels` are all normal pixels of the piece.
    """

    values: NDArray[np.floating]
    defect_pixels: Counts
    overlap: Floats
    above: Counts
    at_or_above: Counts
    normal_pixels: int


@dataclass(frozen=True)
class PixelTotals:
    """Normal pixels, defect pixels, and regions of touching defect pixels of a whole curve."""

    normal: int = 0
    defect: int = 0
    regions: int = 0

    def __add__(self, other: PixelTotals) -> PixelTotals:
        return PixelTotals(self.normal + other.normal, self.defect + other.defect, self.regions + other.regions)


class CurveMetrics:
    """AUROC, AUPRO up to a false-positive rate of `limit`, and the highest F1 of a curve, by pieces of falling values.

    Pixels of equal values enter in one step: where normal and defect pixels share a value the curve is a slope, and
    level elsewhere.
    """

    def __init__(self, totals: PixelTotals, limit: float) -> None:
        self._totals, self._limit = totals, limit
        self._passed = 0  # normal pixels of the pieces so far
        # The last corner: its normal pixels, defect pixels, and overlap in regions.
        self._alarms, self._detected, self._overlap = 0, 0, 0.0
        self._area, self._area_to_limit = 0.0, 0.0
        self._f1, self._threshold = -1.0, 0.0

    def add(self, piece: CurvePiece) -> None:
        """Extend the curve by its next piece."""
        if len(piece.values):
            detected = self._detected + piece.defect_pixels[::-1].cumsum()
            overlap = np.append(self._overlap, piece.overlap[::-1]).cumsum()[1:]
            above, alarms = self._passed + piece.above[::-1], self._passed + piece.at_or_above[::-1]
            self._add_areas(detected, overlap, above, alarms)
            self._choose_threshold(piece.values[::-1], detected, alarms)
            self._alarms, self._detected, self._overlap = int(alarms[-1]), int(detected[-1]), float(overlap[-1])
        self._passed += piece.normal_pixels

    def result(self) -> PixelMetrics:
        """The metrics, after the last piece: the curve goes on to (1, 1)."""
        rates, last = np.array([self._alarms / self._totals.normal, 1.0]), self._overlap / self._totals.regions
        auroc = self._area + _area(rates, np.ones(2), 1.0)
        aupro = (self._area_to_limit + _area(rates, np.array([last, 1.0]), self._limit)) / self._limit
        return PixelMetrics(auroc, aupro, self._f1, self._threshold)

    def _add_areas(self, detected: Counts, overlap: Floats, above: Counts, alarms: Counts) -> None:
        """Two corners per defect value, before and after its pixels, from the last corner on."""
        rates = _corners(self._alarms, above, alarms) / self._totals.normal
        shares = _corners(self._detected, _before(self._detected, detected), detected) / self._totals.defect
        overlaps = _corners(self._overlap, _before(self._overlap, overlap), overlap) / self._totals.regions
        self._area += _area(rates, shares, 1.0)
        self._area_to_limit += _area(rates, overlaps, self._limit)

    def _choose_threshold(self, values: NDArray[np.floating], detected: Counts, alarms: Counts) -> None:
        """The best threshold is a defect pixel's value: one between two of them only adds false alarms."""
        f1 = 2 * detected / (detected + alarms + self._totals.defect)
        best = int(np.argmax(f1))
        if f1[best] > self._f1:
            self._f1, self._threshold = float(f1[best]), float(values[best])


def _before(last: float, heights: NDArray[np.number]) -> NDArray[np.number]:
    return np.append(last, heights[:-1])


def _corners(last: float, before: NDArray[np.number], after: NDArray[np.number]) -> Floats:
    return np.append(float(last), np.stack([before, after], axis=1).ravel())


def _area(rates: Floats, heights: Floats, limit: float) -> float:
    """Area under corners at rising `rates`, as far as these are at most `limit`."""
    inside = int(np.searchsorted(rates, limit, side="right"))
    if 0 < inside < len(rates):
        at_limit = np.interp(limit, rates[inside - 1 : inside + 1], heights[inside - 1 : inside + 1])
        rates, heights = np.append(rates[:inside], limit), np.append(heights[:inside], at_limit)
    else:
        rates, heights = rates[:inside], heights[:inside]
    return float(np.trapezoid(heights, rates))
