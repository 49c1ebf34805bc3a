"""Whitening by location: its statistics, and the scores that are made with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from glance_fast.dense.loop import LoopPass
from glance_fast.dense.torch_pass import DensePass
from glance_fast.evaluation.tolerances import tolerance
from glance_fast.models.model import GlanceModel
from glance_fast.models.whitening import LocationWhitening
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
