"""Metrics of scores and maps against labels and masks: AUROC, AUPRO and the highest F1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score

from glance_fast.errors import ConfigError, DataError
from glance_fast.evaluation.pixel_curve import CurveMetrics
from glance_fast.evaluation.pixel_pool import ALL, PixelPool
from glance_fast.evaluation.results import PixelMetrics

Floats = NDArray[np.floating]
Counts = NDArray[np.int64]

DEFECT = "defect"  # PixelCurve's one class


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

    The curve is exact: pixels with equal values enter in one step. `evaluate` computes the same metrics without holding
    the maps. Raises DataError for masks and maps of different numbers or sizes, a value that is not finite, or without
    defect pixels or normal pixels.
    """

    def __init__(self, masks: Sequence[NDArray[np.bool_]], maps: Sequence[NDArray[np.floating]]) -> None:
        if len(masks) != len(maps) or not maps:
            raise DataError(f"got {len(masks)} masks and {len(maps)} maps; give one mask per map, at least one")
        with PixelPool() as pool:
            for index, (mask, values) in enumerate(zip(masks, maps, strict=True)):
                if not np.isfinite(values).all():
                    raise DataError(f"map {index} has a value that is not finite; train the model again")
                pool.add(DEFECT, mask, values, f"mask {index}")
            self._totals = pool.totals()[ALL]
            _require_both(self._totals.defect, self._totals.normal, "pixels")
            self._pieces = [piece for name, piece in pool.pieces() if name == ALL]

    def auroc(self) -> float:
        """Area under the ROC curve of all pixels."""
        return self._metrics(1.0).auroc

    def aupro(self, limit: float) -> float:
        """Area under the mean overlap of the defect regions, up to a false-positive rate of `limit`.

        A region is a set of defect pixels that touch at a side or a corner; each counts the same. The area
        is divided by `limit`, so the best is 1. Raises ConfigError for a limit outside (0, 1].
        """
        if not 0 < limit <= 1:
            raise ConfigError(f"the limit of the false-positive rate is {limit}; give one above 0, at most 1")
        return self._metrics(limit).aupro

    def f1_max(self) -> tuple[float, float]:
        """The highest F1 of calling pixels at or above a threshold defective, and that threshold."""
        metrics = self._metrics(1.0)
        return metrics.f1_max, metrics.f1_threshold

    def _metrics(self, limit: float) -> PixelMetrics:
        curve = CurveMetrics(self._totals, limit)
        for piece in self._pieces:
            curve.add(piece)
        return curve.result()


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    marked, values = np.asarray(labels, np.bool_), np.asarray(scores, np.float64)
    if marked.ndim != 1 or marked.shape != values.shape:
        raise DataError(f"got labels {list(marked.shape)} and scores {list(values.shape)}; give one label per score")
    if not np.isfinite(values).all():
        raise DataError("a score is not finite, so the scores have no order; train the model again")
    _require_both(int(marked.sum()), int((~marked).sum()), "images")
    return marked, values


def _require_both(defective: int, normal: int, what: str) -> None:
    if not (defective and normal):
        raise DataError(f"got {defective} defective and {normal} normal {what}; the metrics need at least one of each")


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
