"""Thresholds and p-values from normal images that the model has not seen, by conformal prediction.

They are held out of training, or left out of the statistics that they are scored by; "held-out" is said of both. For n
held-out normal scores and a false-alarm rate α the threshold is the ⌈(n+1)(1−α)⌉-th smallest: a new
normal image, exchangeable with them, scores above it with probability at most α. The p-value of a score s is
(1 + #{held-out scores >= s}) / (n + 1).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from glance_fast.errors import DataError, ScoreError


class Calibration(BaseModel):
    """Held-out normal scores, sorted, and the thresholds that follow from them; stored as `calibration.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    scores: tuple[float, ...] = Field(min_length=1)
    false_alarm_rate: float = Field(gt=0, lt=1)
    threshold: float
    pixel_false_alarm_rate: float = Field(gt=0, lt=1)
    pixel_threshold: float

    @model_validator(mode="after")
    def _sorted(self) -> Self:
        if list(self.scores) != sorted(self.scores):
            raise ValueError("scores must be sorted")
        return self

    def p_value(self, score: float) -> float:
        """Share of normal images that score at least this high; the scored image counts as one of them.

        Raises ScoreError for a score that is not finite.
        """
        if not math.isfinite(score):
            raise ScoreError(f"a score of {score} has no p-value; legal are finite scores")
        higher = len(self.scores) - bisect_left(self.scores, score)
        return (1 + higher) / (1 + len(self.scores))

    def threshold_for(self, false_alarm_rate: float) -> float:
        """The image threshold for another false-alarm rate; DataError when too few images were held out.

        For programs that choose the rate after training; the library itself uses `threshold`.
        """
        return conformal_threshold(self.scores, false_alarm_rate)


def images_needed(false_alarm_rate: float) -> int:
    """The least number of held-out normal images for a false-alarm rate."""
    return max(1, math.ceil(1 / false_alarm_rate - 1 - 1e-9))


def conformal_threshold(scores: tuple[float, ...], false_alarm_rate: float) -> float:
    """The conformal quantile of `scores`; DataError for too few scores, and for a rate outside (0, 1)."""
    if not 0 < false_alarm_rate < 1:
        raise DataError(f"a false-alarm rate lies between 0 and 1, got {false_alarm_rate:g}; give one such as 0.05")
    count, needed = len(scores), images_needed(false_alarm_rate)
    if count < needed:
        raise DataError(
            f"a false-alarm rate of {false_alarm_rate:g} needs at least {needed} held-out normal images, "
            f"got {count}; give more images, hold out more of them, "
            f"or ask for a rate of at least {1 / (count + 1):.3g}"
        )
    rank = max(1, math.ceil((count + 1) * (1 - false_alarm_rate) - 1e-9))
    return sorted(scores)[rank - 1]


def calibrate(
    scores: list[float], grids: NDArray[np.float32], false_alarm_rate: float, pixel_false_alarm_rate: float
) -> Calibration:
    """Calibrate on held-out normal images: their scores, and their score grids [n, gy, gx].

    The pixel threshold leaves the fraction `pixel_false_alarm_rate` of all normal locations above it. Raises DataError
    for too few images and for scores that are NaN or infinite.
    """
    if not (np.isfinite(scores).all() and np.isfinite(grids).all()):
        raise DataError("held-out normal images score NaN or infinite; the training diverged: lower learning_rate")
    ordered = tuple(sorted(float(score) for score in scores))
    return Calibration(
        scores=ordered,
        false_alarm_rate=false_alarm_rate,
        threshold=conformal_threshold(ordered, false_alarm_rate),
        pixel_false_alarm_rate=pixel_false_alarm_rate,
        pixel_threshold=float(np.quantile(grids, 1 - pixel_false_alarm_rate, method="higher")),
    )
