"""IAD, DAD and the score: the paper's formulas, number by number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from glance_fast.models.heads import DistortionHead, dad, iad
from tests.helpers.models import tiny_model
from tests.helpers.tolerances import DTYPES, assert_close, assert_near


def features(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z_local, z_global = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return z_local, z_global


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(7,), (4, 1), (2, 5, 8)], ids=str)
def test_iad_is_the_mean_squared_difference(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    z_local, z_global = features(*shape)
    expected = np.linalg.norm(z_local.numpy() - z_global.numpy(), axis=-1) ** 2 / shape[-1]
    assert_close(iad(z_local.to(dtype) - z_global.to(dtype)), expected, dtype)


def test_iad_of_fixed_numbers() -> None:
    assert iad(torch.tensor([0.0, 2.0, 0.0, -4.0])).item() == 5.0
    assert iad(torch.zeros(3)).item() == 0.0


def test_dad_is_one_less_the_probability_of_normal() -> None:
    logits = torch.linspace(-8, 8, 33, dtype=torch.float64)
    expected = torch.tensor([1 - 1 / (1 + math.exp(-logit)) for logit in logits.tolist()], dtype=torch.float64)
    assert_close(dad(logits), expected, torch.float64)


def test_dad_stays_within_0_and_1_and_falls_as_normal_grows() -> None:
    actual = dad(torch.tensor([-1e4, -50.0, -1.0, 0.0, 1.0, 50.0, 1e4]))
    assert actual[0] == 1 and actual[3] == 0.5 and actual[-1] == 0
    assert ((actual >= 0) & (actual <= 1)).all()
    assert (actual.diff() <= 0).all() and actual[2] > actual[4]


@pytest.mark.parametrize("shape", [(7,), (4, 7), (2, 5, 7)], ids=str)
def test_the_distortion_head_is_its_formula(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    head = DistortionHead(7, 6).double()
    x, _ = (z.numpy() for z in features(*shape))
    inputs = torch.from_numpy(x)
    weights = [weight.detach().numpy() for weight in head.parameters()]
    for weight, bias in zip(weights[:4:2], weights[1:4:2], strict=True):
        x = np.maximum(x @ weight.T + bias, 0)
    expected = (x @ weights[4].T + weights[5])[..., 0]
    assert_close(head(inputs), expected, torch.float64)


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_the_score_mixes_both_heads_by_the_iad_weight(lam: float) -> None:
    model = tiny_model(iad_weight=lam).double()
    z_local, z_global = features(2, 5, 8)
    with torch.no_grad():
        actual = model.score(z_local, z_global)
        logit = model.distortion(torch.cat([z_local, z_global, (z_local - z_global) ** 2], dim=-1))
    expected = lam * (z_local - z_global).square().sum(-1) / 8 + (1 - lam) * (1 - 1 / (1 + torch.exp(-logit)))
    assert_close(actual, expected, torch.float64)


def test_pixels_are_normalised_as_the_networks_expect() -> None:
    model = tiny_model().double()
    pixels = torch.randint(0, 256, (2, 5, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = ((pixels.numpy() / 255 - mean) / std).transpose(0, 3, 1, 2)
    # The constants are kept in float32.
    assert_near(model.from_uint8(pixels), expected, "interpolation")
