"""Thresholds keep their promised false-alarm rate, p-values count as they say, and bad input is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError

from glance_fast.errors import DataError
from glance_fast.postprocessing.calibration import Calibration, calibrate, conformal_threshold, images_needed

RATES = st.floats(0.001, 0.999)
SCORES = st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=60)


def calibration(scores: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0)) -> Calibration:
    return Calibration(
        scores=scores, false_alarm_rate=0.2, threshold=4.0, pixel_false_alarm_rate=0.1, pixel_threshold=3.0
    )


@pytest.mark.parametrize(
    ("count", "rate", "rank"),
    [
        (19, 0.05, 19),
        (20, 0.05, 20),
        (39, 0.05, 38),
        (99, 0.01, 99),
        (9, 0.1, 9),
        (4, 0.2, 4),
        (9, 0.5, 5),
        (1, 0.5, 1),
    ],
)
def test_the_threshold_is_the_score_of_the_conformal_rank(count: int, rate: float, rank: int) -> None:
    shuffled = np.random.default_rng(0).permutation(np.arange(1.0, count + 1))
    assert conformal_threshold(tuple(shuffled.tolist()), rate) == rank


@pytest.mark.parametrize(
    ("rate", "needed"), [(0.5, 1), (0.2, 4), (0.1, 9), (0.05, 19), (0.01, 99), (0.3, 3), (0.999, 1)]
)
def test_images_needed_is_the_smallest_number_that_works(rate: float, needed: int) -> None:
    assert images_needed(rate) == needed
    conformal_threshold((0.0,) * needed, rate)
    with pytest.raises(
        DataError, match=f"at least {needed} held-out normal images, got {needed - 1}; give more images"
    ):
        conformal_threshold((0.0,) * (needed - 1), rate)


@given(SCORES, RATES)
def test_above_the_threshold_is_a_p_value_within_the_rate(scores: list[float], rate: float) -> None:
    if len(scores) < images_needed(rate):
        return
    threshold = conformal_threshold(tuple(scores), rate)
    held_out = calibration(tuple(sorted(scores)))
    for score in [*scores, threshold, float(np.nextafter(threshold, np.inf)), 2e3, -2e3]:
        assert (score > threshold) == (held_out.p_value(score) <= rate + 1e-9)


@given(SCORES, st.floats(-2e3, 2e3))
def test_the_p_value_is_its_definition(scores: list[float], score: float) -> None:
    share = (1 + sum(other >= score for other in scores)) / (len(scores) + 1)
    assert calibration(tuple(sorted(scores))).p_value(score) == pytest.approx(share)


@pytest.mark.parametrize(("count", "rate"), [(19, 0.05), (50, 0.1), (9, 0.3)])
def test_new_normal_images_keep_the_false_alarm_rate(count: int, rate: float) -> None:
    rng = np.random.default_rng(0)
    trials = rng.gamma(2, size=(4000, count + 1))
    alarms = [row[-1] > conformal_threshold(tuple(row[:-1].tolist()), rate) for row in trials]
    # With continuous scores this is the expected rate; 4,000 trials spread by less than 0.8 %.
    expected = 1 - np.ceil((count + 1) * (1 - rate) - 1e-9) / (count + 1)
    assert np.mean(alarms) == pytest.approx(expected, abs=0.025)
    assert expected <= rate + 1e-12


def test_calibrate_sorts_and_sets_both_thresholds() -> None:
    rng = np.random.default_rng(1)
    grids = rng.random((20, 7, 9), np.float32)
    scores = [float(grid.max()) for grid in grids]
    result = calibrate(scores, grids, 0.1, 0.005)
    assert result.scores == tuple(sorted(scores))
    assert result.threshold == conformal_threshold(result.scores, 0.1)
    assert 0 < (grids > np.float32(result.pixel_threshold)).mean() <= 0.005
    assert result.threshold_for(0.1) == result.threshold and result.threshold_for(0.5) < result.threshold
    assert Calibration.model_validate_json(result.model_dump_json()) == result


def test_too_few_images_say_what_to_do() -> None:
    with pytest.raises(DataError, match=r"0\.05 needs at least 19 held-out normal images, got 4; .*at least 0\.2"):
        calibrate([1, 2, 3, 4], np.zeros((4, 2, 2), np.float32), 0.05, 0.01)
    with pytest.raises(DataError, match="got 4"):
        calibration().threshold_for(0.1)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_a_rate_outside_0_to_1_is_refused(rate: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        calibration().threshold_for(rate)


@pytest.mark.parametrize(
    ("scores", "grids"),
    [([1.0, float("nan")], np.zeros((2, 2, 2))), ([1.0, 2.0], np.full((2, 2, 2), np.inf))],
    ids=["score", "grid"],
)
def test_scores_that_are_no_numbers_are_refused(scores: list[float], grids: Any) -> None:
    with pytest.raises(DataError, match="NaN or infinite"):
        calibrate(scores, grids.astype(np.float32), 0.5, 0.1)


@pytest.mark.parametrize(
    "change",
    [
        {"scores": ()},
        {"scores": (2.0, 1.0)},
        {"scores": (float("nan"),)},
        {"threshold": float("inf")},
        {"false_alarm_rate": 0},
        {"pixel_false_alarm_rate": 1},
        {"colour": "red"},
    ],
    ids=str,
)
def test_an_impossible_calibration_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Calibration.model_validate({**calibration().model_dump(), **change})
