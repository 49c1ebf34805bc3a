"""Large images in strips: the loop's numbers, in memory that does not grow with the image's height."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from glance_fast.backends.tolerances import tolerance
from glance_fast.backends.torch_backend import TorchBackend
from glance_fast.dense.strip_pass import StripPass, make_pass
from glance_fast.models.global_net import global_layers
from glance_fast.plan.layer import conv, pool
from glance_fast.plan.plan import compile_plan
from glance_fast.plan.strips import cut_strips
from tests.helpers.dense_cases import DenseCase, dense_case, hole_grid
from tests.helpers.images import model_images
from tests.helpers.models import PRETRAINED, fitted_model
from tests.helpers.reference import loop_of_photos
from tests.helpers.tolerances import assert_close

CASES: dict[str, Callable[[], DenseCase]] = {
    "odd": lambda: dense_case(global_layers((4, 5, 6), 1), (85, 26), 8, hole_grid((85, 26), 8, 6)),
    "two convolutions, batch": lambda: dense_case(global_layers((4, 6), 2), (61, 19), 6, hole_grid((61, 19), 6, 5), 2),
    "read-out of four": lambda: dense_case(global_layers((5, 7), 1), (67, 23), 7, hole_grid((67, 23), 7, 5), 2, 2),
    "beyond the borders": lambda: dense_case(global_layers((4, 5), 1), (70, 17), 7, ([-6, 3, 14, 40, 66], [-3, 12])),
    "any order": lambda: dense_case(global_layers((4, 5), 1), (70, 17), 7, ([40, 3, 61, 14], [5, 0])),
    "other kernels": lambda: dense_case(
        [conv(4, 5), pool(4, 3), conv(6, 1), conv(5)], (75, 23), 7, hole_grid((75, 23), 7, 4)
    ),
    "a small hole": lambda: dense_case(global_layers((4, 5, 6), 1), (90, 24), 3, hole_grid((90, 24), 3, 7)),
}


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_strips_are_the_loop(name: str, rows: int) -> None:
    case = CASES[name]()
    max_bytes = 1
    if rows > 1:
        max_bytes = max(strip.plan.peak_bytes for strip in cut_strips(case.plan, 1)) * 2
    cut = StripPass(case.plan, max_bytes=max_bytes)
    assert len(cut.plans) > 1
    assert sum(plan.locations for plan in cut.plans) == case.plan.locations
    net = case.net.float()
    actual = cut(net, case.images.float())
    net.double()
    assert_close(actual, case.loop(), torch.float32)


def test_strips_use_less_memory_and_inner_strips_share_a_plan() -> None:
    layers = global_layers((8, 12, 16), 1)
    max_bytes = 1 << 20
    for height in (512, 2048):
        whole = compile_plan(layers, (height, 64), 16, (range(0, height - 15, 8), range(0, 49, 8)))
        cut = cut_strips(whole, max_bytes)
        assert whole.peak_bytes > max_bytes >= max(strip.plan.peak_bytes for strip in cut)
        assert len({id(strip.plan) for strip in cut}) <= 4
        # What neighbouring strips both see costs little.
        assert sum(strip.plan.macs for strip in cut) < 1.25 * whole.macs
    assert isinstance(make_pass(whole, max_bytes=max_bytes), StripPass)
    assert not isinstance(make_pass(whole), StripPass)


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": (150, 45), "patch": 16, "stride": 6},
        {"image_size": (150, 65), **PRETRAINED, "stride": 20, "border_padding": 30},
        {"image_size": (120, 101), **PRETRAINED, "stride": 8, "border_padding": 12, "context_features": 5},
        {"image_size": (180, 75), **PRETRAINED, "feature_block": 3, "global_channels": (6, 8, 8)},
    ],
    ids=["distilled", "pretrained", "context features", "deeper feature block"],
)
def test_both_networks_in_strips_are_the_loop(changes: dict[str, Any]) -> None:
    model = fitted_model(changes)
    images = model_images(model, 2 if "local_net" not in changes else 1)
    expected = loop_of_photos(model, images)
    with torch.no_grad():
        cut = make_pass(model.compile_plan(), max_bytes=1)
        features = cut.features(model, model.from_uint8(torch.from_numpy(images)))
    assert isinstance(cut, StripPass) and len(cut.plans) > 3
    for actual, reference in zip(features, expected, strict=True):
        assert_close(actual, reference, torch.float32)


def test_the_backend_cuts_large_images(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fitted_model({"image_size": (150, 45), "patch": 16, "stride": 6})
    images = list(model_images(model, 2))
    whole = TorchBackend(model).grids(images)
    monkeypatch.setattr("glance_fast.dense.strip_pass.MAX_STRIP_BYTES", 1)
    monkeypatch.setattr(make_pass, "__defaults__", ("cpu", 1))
    backend = TorchBackend(model)
    assert isinstance(backend.dense, StripPass)
    for actual, reference in zip(backend.grids(images), whole, strict=True):
        limit = tolerance("output", "fp32")
        np.testing.assert_allclose(actual, reference, rtol=limit, atol=limit)
