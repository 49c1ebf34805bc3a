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
from glance_fast.models.whitening import LocationWhitening, left_out
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
