"""Whitening by location: its statistics, and the scores that are made with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from glance_fast.backends.tolerances import tolerance
from glance_fast.dense.loop import LoopPass
from glance_fast.dense.torch_pass import DensePass
from glance_fast.errors import TrainingError
from glance_fast.models.model import GlanceModel
from glance_fast.models.whitening import NEAR_BEST, POOLED_FRACTIONS, LocationWhitening, highest_over_median, left_out
from tests.helpers.models import tiny_model
from tests.helpers.tolerances import DTYPES, assert_close


def differences(count: int = 300, locations: int = 3, features: int = 4) -> Tensor:
    """Another mean and covariance at each location."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(locations, features, features, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, locations, features, generator=generator, dtype=torch.float64)
    return torch.einsum("bln,lmn->blm", noise, mixing) + torch.arange(locations)[:, None]


def test_the_samples_of_the_fit_become_white() -> None:
    samples, whitening = differences(), LocationWhitening(3, 4).double()
    whitening.fit([samples[:100], samples[100:]], 1e-9)
    white = whitening(samples)
    for location in range(3):
        assert white[:, location].mean(0).abs().max() < tolerance("output", "fp64")
        assert np.abs(np.cov(white[:, location].numpy().T, ddof=0) - np.eye(4)).max() < 1e-6


def test_the_whitened_length_is_the_mahalanobis_distance() -> None:
    samples, whitening = differences(), LocationWhitening(3, 4).double()
    whitening.fit([samples], 0.05)
    for location in range(3):
        rows = samples[:, location].numpy()
        covariance = np.cov(rows.T, ddof=0)
        variance = [np.trace(np.cov(samples[:, i].numpy().T, ddof=0)) / 4 for i in range(3)]
        covariance += 0.05 * np.mean(variance) * np.eye(4)
        away = rows - rows.mean(0)
        expected = np.einsum("bn,nm,bm->b", away, np.linalg.inv(covariance), away)
        assert_close(whitening(samples)[:, location].square().sum(1), expected, torch.float64)


def test_selected_locations_are_whitened_as_all_are() -> None:
    samples, whitening = differences(), LocationWhitening(3, 4).double()
    whitening.fit([samples], 0.01)
    locations = torch.tensor([2, 0])
    assert torch.equal(whitening(samples[:, locations], locations), whitening(samples)[:, locations])


def test_constant_photographs_give_finite_whitening() -> None:
    whitening = LocationWhitening(2, 3)
    whitening.fit([torch.zeros(5, 2, 3) + torch.randn(1, 2, 1), torch.randn(2, 2, 3)], 0.01)
    assert whitening.matrix.isfinite().all()


@pytest.mark.parametrize("count", [2, 5, 300])
def test_an_image_that_is_left_out_is_as_far_as_statistics_without_it_say(count: int) -> None:
    samples, absolute = differences(count), 0.3
    whole, without = LocationWhitening(3, 4).double(), LocationWhitening(3, 4).double()
    whole.fit([samples], absolute=absolute)
    without.fit([samples[1:]], absolute=absolute * count / (count - 1))
    actual = left_out(whole(samples), count)[0].square().sum(-1)
    assert_close(actual, without(samples[:1])[0].square().sum(-1), torch.float64)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.9])
def test_a_fraction_of_the_covariance_is_that_of_all_locations(fraction: float) -> None:
    samples, whitening, count = differences(), LocationWhitening(3, 4).double(), 300
    whitening.fit([samples[:7], samples[7:]], absolute=0.1, pooled=fraction)
    own = [np.cov(samples[:, location].numpy().T, ddof=0) for location in range(3)]
    pooled, larger = np.mean(own, axis=0), count / (count - 1)
    for location in range(3):
        rows = samples[:, location].numpy()
        mixed = (1 - fraction) * own[location] + fraction * pooled + 0.1 * np.eye(4)
        away = rows - rows.mean(0)
        expected = np.einsum("bn,nm,bm->b", away, np.linalg.inv(mixed), away)
        assert_close(whitening(samples)[:, location].square().sum(1), expected, torch.float64)
        # Without the first image, and the rest of the matrix larger by the same factor.
        without = (1 - fraction) * np.cov(rows[1:].T, ddof=0) + larger * (fraction * pooled + 0.1 * np.eye(4))
        away_from_others = rows[0] - rows[1:].mean(0)
        expected_length = away_from_others @ np.linalg.inv(without) @ away_from_others
        actual = whitening.left_out(whitening(samples))[0, location].square().sum()
        assert_close(actual[None], np.array([expected_length]), torch.float64)


def test_the_fraction_is_chosen_by_the_normal_images_alone() -> None:
    few, alike, many = differences(12, 200, 8), torch.randn(12, 200, 8, dtype=torch.float64), differences(900, 30, 8)
    fractions = []
    for samples in (alike, few, many):
        whitening = LocationWhitening(samples.shape[1], 8).double()
        whitening.fit([samples[:5], samples[5:]], 0.01, pooled=None)
        fractions.append(whitening.pooled_fraction)
        heights = []
        for fraction in POOLED_FRACTIONS:
            other = LocationWhitening(samples.shape[1], 8).double()
            other.fit([samples], 0.01, pooled=fraction)
            heights.append(highest_over_median(other.left_out(other(samples[:64]))))
        near = np.flatnonzero(np.array(heights) <= NEAR_BEST * min(heights))
        assert whitening.pooled_fraction == POOLED_FRACTIONS[near[0]]
    assert fractions[0] >= 0.6, "few images, and all locations have one covariance"
    assert fractions[2] <= 0.1, "many images, and each location has its own"


def test_a_single_image_has_no_fraction_to_choose() -> None:
    whitening = LocationWhitening(2, 3)
    whitening.fit([torch.randn(1, 2, 3)], 0.01, pooled=None)
    assert whitening.pooled_fraction == 0 and whitening.matrix.isfinite().all()


def test_images_that_differ_in_rounding_alone_give_finite_whitening() -> None:
    noise = 1e-6 * torch.randn(30, 2, 6)
    whitening = LocationWhitening(2, 6)
    whitening.fit([1 + noise], 0.01)
    assert whitening.matrix.isfinite().all()


def test_statistics_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(TrainingError, match="lower learning_rate"):
        LocationWhitening(2, 6).fit([torch.full((3, 2, 6), float("nan"))], 0.01)


def fitted(**changes: Any) -> GlanceModel:
    model = tiny_model(location_whitening=True, iad_weight=0.3, **changes).double()
    assert model.whitening is not None
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(40, 3, *model.config.image_size, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        z_local, z_global = DensePass(model.compile_plan(), dtype=torch.float64).features(model, images)
    model.whitening.fit([z_local - z_global], 0.05)
    model.score_offset.copy_(torch.tensor([0.5, -1.0]))
    model.score_scale.copy_(torch.tensor([2.0, 3.0]))
    return model


@pytest.mark.parametrize("changes", [{}, {"border_padding": 7, "stride": 4, "image_size": (37, 45)}], ids=str)
def test_the_whitened_score_is_its_formula_and_the_loops(changes: dict[str, Any]) -> None:
    model = fitted(**changes)
    images = torch.randn(2, 3, *model.config.image_size, dtype=torch.float64)
    assert model.whitening is not None
    with torch.no_grad():
        z_local, z_global = LoopPass(model.compile_plan(), batch=16).features(model, images)
        w = torch.einsum("lmn,bln->blm", model.whitening.matrix, z_local - z_global - model.whitening.mean)
        logit = model.distortion(torch.cat([w, z_global], dim=-1))
        expected = 0.3 * (w.square().mean(-1).sqrt() - 0.5) / 2 + 0.7 * (-logit + 1) / 3
        for dtype in DTYPES:
            dense = DensePass(model.compile_plan(), dtype=dtype)
            actual = model.to(dtype).score(*dense.features(model, images.to(dtype)))
            assert_close(actual, expected, dtype)
