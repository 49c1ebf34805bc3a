"""Metrics of scores and maps against labels and masks: AUROC, AUPRO and the highest F1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from glance_fast.errors import ConfigError, DataError

Floats = NDArray[np.floating]
Counts = NDArray[np.int64]


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve of scores [N] with labels [N], True = defect.

    Raises DataError where it is undefined: lengths that differ, a score that is not finite, or labels that
    are all equal.
    """
    return float(roc_auc_score(*_checked(labels, scores)))


def f1_max(labels: ArrayLike, scores: ArrayLike) -> tuple[float, float]:
    """The highest F1 of calling scores [N] at or above a threshold defects, and that threshold.

    If several thresholds reach it, the highest of them. Raises DataError as `auroc` does.
    """
    marked, values = _checked(labels, scores)
    positive, detected = _distinct(values[marked])
    return _best_f1(positive, detected, _at_or_above(np.sort(values[~marked]), positive))


class PixelCurve:
    """The pixel metrics of maps float32 [H, W] with masks bool [H, W], True = defect.

    Sorts the pixels once, for all metrics. A curve can bend only at the values of defect pixels, which are few, so
    only those points are stored, and it is still exact: pixels with equal values enter in one step.
    Raises DataError for masks and maps of different numbers or sizes, a value that is not finite, or without
    defect pixels or normal pixels.
    """

    def __init__(self, masks: Sequence[NDArray[np.bool_]], maps: Sequence[NDArray[np.floating]]) -> None:
        _check_maps(masks, maps)
        normal = np.concatenate([values[~mask] for mask, values in zip(masks, maps, strict=True)])
        defect = np.concatenate([values[mask] for mask, values in zip(masks, maps, strict=True)])
        _require_both(len(defect), len(normal), "pixels")
        normal.sort()
        self._normal_pixels = len(normal)
        self._values, index = np.unique(defect, return_inverse=True)
        self._values = self._values[::-1]
        shares = np.bincount(index, weights=_region_shares(masks))[::-1].cumsum()
        self._overlap = shares / shares[-1]  # mean overlap of the regions at or above each value
        self._detected: Counts = np.bincount(index)[::-1].cumsum()
        self._alarms = _at_or_above(normal, self._values)
        self._alarms_above = len(normal) - np.searchsorted(normal, self._values, side="right")

    def auroc(self) -> float:
        """Area under the ROC curve of all pixels."""
        area = _area(*self._corners(self._detected / self._detected[-1]))
        return float(area)

    def aupro(self, limit: float) -> float:
        """Area under the mean overlap of the defect regions, up to a false-positive rate of `limit`.

        A region is a set of defect pixels that touch at a side or a corner; each counts the same. The area
        is divided by `limit`, so the best is 1. Raises ConfigError for a limit outside (0, 1].
        """
        if not 0 < limit <= 1:
            raise ConfigError(f"the limit of the false-positive rate is {limit}; give one above 0, at most 1")
        rates, overlaps = self._corners(self._overlap)
        inside = int(np.searchsorted(rates, limit, side="right"))
        at_limit = np.interp(limit, rates[inside - 1 : inside + 1], overlaps[inside - 1 : inside + 1])
        area = _area(np.append(rates[:inside], limit), np.append(overlaps[:inside], at_limit))
        return area / limit

    def f1_max(self) -> tuple[float, float]:
        """The highest F1 of calling pixels at or above a threshold defective, and that threshold."""
        return _best_f1(self._values, self._detected, self._alarms)

    def _corners(self, heights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The corners of a curve over the false-positive rate, from (0, 0) to (1, 1).

        Two per defect value, before and after its pixels: level between values, and a slope where normal
        pixels have the same value.
        """
        before = np.append(0.0, heights[:-1])
        rates = np.stack([self._alarms_above, self._alarms], 1).ravel() / self._normal_pixels
        curve = np.stack([before, heights], 1).ravel()
        return np.concatenate([[0.0], rates, [1.0]]), np.concatenate([[0.0], curve, [1.0]])


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    marked, values = np.asarray(labels, np.bool_), np.asarray(scores, np.float64)
    if marked.ndim != 1 or marked.shape != values.shape:
        raise DataError(f"got labels {list(marked.shape)} and scores {list(values.shape)}; give one label per score")
    if not np.isfinite(values).all():
        raise DataError("a score is not finite, so the scores have no order; train the model again")
    _require_both(int(marked.sum()), int((~marked).sum()), "images")
    return marked, values


def _check_maps(masks: Sequence[NDArray[np.bool_]], maps: Sequence[NDArray[np.floating]]) -> None:
    if len(masks) != len(maps) or not maps:
        raise DataError(f"got {len(masks)} masks and {len(maps)} maps; give one mask per map, at least one")
    for index, (mask, values) in enumerate(zip(masks, maps, strict=True)):
        if mask.dtype != np.bool_ or mask.ndim != 2 or mask.shape != values.shape:
            raise DataError(
                f"mask {index} is {mask.dtype} {list(mask.shape)} and its map {list(values.shape)}; "
                "give a bool mask [H, W] of the map's size"
            )
        if not np.isfinite(values).all():
            raise DataError(f"map {index} has a value that is not finite; train the model again")


def _require_both(defective: int, normal: int, what: str) -> None:
    if not (defective and normal):
        raise DataError(f"got {defective} defective and {normal} normal {what}; the metrics need at least one of each")


def _region_shares(masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.float64]:
    """For every defect pixel, in the order of the masks, its share of its own region."""
    touching = np.ones((3, 3), np.int64)
    shares = []
    for mask in masks:
        regions = ndimage.label(mask, touching)[0][mask]
        shares.append(1 / np.bincount(regions)[regions])
    return np.concatenate(shares)


def _distinct(positive: Floats) -> tuple[Floats, Counts]:
    """The distinct values in falling order, with the number of values at or above each."""
    values, counts = np.unique(positive, return_counts=True)
    return values[::-1], counts[::-1].cumsum()


def _at_or_above(rising: Floats, values: Floats) -> Counts:
    return len(rising) - np.searchsorted(rising, values, side="left")


def _best_f1(values: Floats, detected: Counts, alarms: Counts) -> tuple[float, float]:
    """The best threshold is a positive's value: one between two of them only adds false alarms."""
    f1 = 2 * detected / (detected + alarms + detected[-1])
    best = int(np.argmax(f1))
    return float(f1[best]), float(values[best])


def _area(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float(np.trapezoid(y, x))
