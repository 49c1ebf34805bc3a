"""Metrics: equal to scikit-learn and to a count over every threshold, and an error where undefined."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import f1_score, roc_auc_score

from glance_fast.backends.tolerances import tolerance
from glance_fast.errors import ConfigError, DataError
from glance_fast.evaluation import pixel_pool
from glance_fast.evaluation.metrics import PixelCurve, auroc, f1_max

Masks = list[NDArray[np.bool_]]
Maps = list[NDArray[np.float32]]


@pytest.fixture(params=[None, (4, 2, 3), (1, 1, 1)], ids=["one piece", "pieces", "a value per piece"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in memory at a time, so that curves come in one piece or in many."""
    for name, size in zip(("BLOCK", "SAMPLE", "BATCH"), request.param or (), strict=False):
        monkeypatch.setattr(pixel_pool, name, size)


SIZES = [(1, 1), (7, 13), (16, 5), (11, 11)]


def random_maps(seed: int, levels: int, share: float = 0.3) -> tuple[Masks, Maps]:
    """Images of odd sizes with scattered defects and values of few levels, so that most are tied."""
    rng = np.random.default_rng(seed)
    masks: Masks = [rng.random(size) < share for size in SIZES]
    masks[0][:] = False
    maps: Maps = [
        (rng.integers(0, levels, mask.shape) / 4 + rng.integers(0, 2) * mask).astype(np.float32) for mask in masks
    ]
    return masks, maps


def flat(masks: Masks, maps: Maps) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    return np.concatenate([m.ravel() for m in masks]), np.concatenate([m.ravel() for m in maps])


def counted_aupro(masks: Masks, maps: Maps, limit: float) -> float:
    """Region by region at every threshold, each piece of the curve cut at the limit by hand."""
    labels, values = flat(masks, maps)
    corners = [(0.0, 0.0)]
    for threshold in sorted(set(values.tolist()), reverse=True):
        overlaps = []
        for mask, anomaly_map in zip(masks, maps, strict=True):
            regions, count = ndimage.label(mask, np.ones((3, 3)))
            overlaps += [float((anomaly_map >= threshold)[regions == n].mean()) for n in range(1, count + 1)]
        corners.append((float((values >= threshold)[~labels].mean()), float(np.mean(overlaps))))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        if x0 < limit and x1 > x0:
            end = min(x1, limit)
            area += (end - x0) * (y0 + y0 + (y1 - y0) * (end - x0) / (x1 - x0)) / 2
    return area / limit


def counted_f1(labels: NDArray[np.bool_], values: NDArray[np.floating]) -> float:
    return max(float(f1_score(labels, values >= threshold)) for threshold in np.unique(values))


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("levels", [1, 2, 5, 1000])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_aupro_is_the_area_counted_at_every_threshold(levels: int, limit: float) -> None:
    for seed in range(4):
        masks, maps = random_maps(seed, levels, share=0.1 + 0.2 * seed)
        expected = counted_aupro(masks, maps, limit)
        assert PixelCurve(masks, maps).aupro(limit) == pytest.approx(expected, abs=tolerance("metric", "fp64"))


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("levels", [1, 2, 5, 1000])
def test_pixel_auroc_and_f1_are_those_of_scikit_learn(levels: int) -> None:
    for seed in range(4):
        masks, maps = random_maps(seed, levels)
        labels, values = flat(masks, maps)
        curve = PixelCurve(masks, maps)
        assert curve.auroc() == pytest.approx(roc_auc_score(labels, values), abs=tolerance("metric", "fp64"))
        best, threshold = curve.f1_max()
        assert best == pytest.approx(counted_f1(labels, values), abs=tolerance("metric", "fp64"))
        assert f1_score(labels, values >= np.float32(threshold)) == pytest.approx(best, abs=tolerance("metric", "fp64"))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=25))
def test_image_metrics_are_those_of_scikit_learn(rows: list[tuple[bool, int]]) -> None:
    labels = np.array([label for label, _ in rows])
    scores = np.array([float(score) for _, score in rows])
    if labels.all() or not labels.any():
        with pytest.raises(DataError):
            f1_max(labels, scores)
        return
    best, threshold = f1_max(labels, scores)
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    assert best == pytest.approx(counted_f1(labels, scores))
    assert f1_score(labels, scores >= threshold) == pytest.approx(best)


def test_labels_and_scores_may_be_lists() -> None:
    assert auroc([0, 1, 1], [1, 2, 3]) == 1 and f1_max([0, 1, 1], [1, 2, 3]) == (1.0, 2.0)


def test_of_equal_f1_the_highest_threshold_is_returned() -> None:
    # at 5: one of two found, no alarm: 2/3; at 1: both found, two alarms: 2/3
    best, threshold = f1_max([1, 0, 0, 1], [5.0, 3.0, 2.0, 1.0])
    assert best == pytest.approx(2 / 3) and threshold == 5


def test_a_small_region_counts_as_much_as_a_large_one() -> None:
    mask = np.zeros((12, 12), np.bool_)
    mask[0:6, 0:6], mask[10, 10] = True, True
    large_map = np.zeros((12, 12), np.float32)
    large_map[0:6, 0:6] = 1
    small_map = np.zeros((12, 12), np.float32)
    small_map[10, 10] = 1
    large, small = (PixelCurve([mask], [values]) for values in (large_map, small_map))
    assert large.aupro(0.3) == pytest.approx(small.aupro(0.3)) == pytest.approx(0.5 + 0.3 / 4)
    assert large.auroc() > small.auroc()


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    mask = np.zeros((4, 9), np.bool_)
    mask[0, 0], mask[1, 1:4] = True, True  # one region of four
    values = mask.astype(np.float32)
    values[0, 0] = -1  # below every normal pixel
    assert PixelCurve([mask], [values]).aupro(1.0) == pytest.approx(3 / 4)


def test_regions_of_two_images_are_not_joined() -> None:
    masks = [np.ones((1, 3), np.bool_), np.array([[True, False, False]])]
    maps = [np.full((1, 3), 2, np.float32), np.array([[0, 1, 1]], np.float32)]
    assert PixelCurve(masks, maps).aupro(0.3) == pytest.approx(0.5)


@pytest.mark.usefixtures("pieces")
def test_a_perfect_map_is_perfect_and_an_inverted_one_worst() -> None:
    masks, _ = random_maps(0, 2)
    right = PixelCurve(masks, [mask.astype(np.float32) for mask in masks])
    assert right.auroc() == 1 and right.aupro(0.3) == pytest.approx(1) and right.f1_max() == (1.0, 1.0)
    wrong = PixelCurve(masks, [1 - mask.astype(np.float32) for mask in masks])
    assert wrong.auroc() == 0 and wrong.aupro(0.3) == 0


@pytest.mark.usefixtures("pieces")
def test_a_constant_map_has_the_metrics_of_chance() -> None:
    masks, maps = random_maps(1, 1)
    curve = PixelCurve(masks, [np.full_like(values, 7) for values in maps])
    assert curve.auroc() == pytest.approx(0.5) and curve.aupro(0.3) == pytest.approx(0.15)


def test_a_curve_does_not_change_its_maps() -> None:
    masks, maps = random_maps(2, 1000)
    before = [values.copy() for values in maps]
    PixelCurve(masks, maps).aupro(0.3)
    assert all((a == b).all() for a, b in zip(maps, before, strict=True))


def test_memory_order_does_not_matter() -> None:
    masks, maps = random_maps(3, 6)
    turned = PixelCurve([np.array(m, order="F") for m in masks], [np.array(m, order="C") for m in maps])
    assert turned.aupro(0.3) == PixelCurve(masks, maps).aupro(0.3)


@pytest.mark.parametrize(
    ("labels", "scores", "words"),
    [
        ([0, 0], [1, 2], "0 defective and 2 normal"),
        ([1, 1], [1, 2], "2 defective and 0 normal"),
        ([], [], "at least one of each"),
        ([0, 1], [1, float("nan")], "not finite"),
        ([0, 1], [1, float("inf")], "not finite"),
        ([0, 1, 1], [1, 2], "one label per score"),
        ([[0, 1]], [[1, 2]], "one label per score"),
    ],
)
def test_undefined_image_metrics_are_an_error(labels: list[int], scores: list[float], words: str) -> None:
    for metric in (auroc, f1_max):
        with pytest.raises(DataError, match=words):
            metric(labels, scores)


MASK = np.array([[True, False]])
VALUES = np.array([[1, 0]], np.float32)


@pytest.mark.parametrize(
    ("masks", "maps", "words"),
    [
        ([], [], "at least one"),
        ([MASK, MASK], [VALUES], "2 masks and 1 maps"),
        ([MASK], [VALUES.T], r"mask 0 is bool \[1, 2\] and its map \[2, 1\]"),
        ([MASK, MASK.astype(np.uint8)], [VALUES, VALUES], "mask 1 is uint8"),
        ([np.array([True, False])], [np.array([1, 0], np.float32)], r"mask 0 is bool \[2\]"),
        ([MASK], [VALUES * np.nan], "map 0 .*not finite"),
        ([MASK, MASK], [VALUES, VALUES + np.float32(np.inf)], "map 1 .*not finite"),
        ([MASK & False], [VALUES], "0 defective and 2 normal pixels"),
        ([MASK | True], [VALUES], "2 defective and 0 normal pixels"),
    ],
)
def test_undefined_pixel_metrics_are_an_error(masks: Masks, maps: Maps, words: str) -> None:
    with pytest.raises(DataError, match=words):
        PixelCurve(masks, maps)


@pytest.mark.parametrize("limit", [0.0, -0.1, 1.01, float("nan")])
def test_a_limit_outside_its_range_is_an_error(limit: float) -> None:
    with pytest.raises(ConfigError, match="above 0, at most 1"):
        PixelCurve([MASK], [VALUES]).aupro(limit)
