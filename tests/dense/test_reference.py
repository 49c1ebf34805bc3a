"""The reference is the loop: its depthwise convolutions are PyTorch's, and what it keeps is of one model and image."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from glance_fast.dense.loop import LoopPass
from tests.helpers.models import tiny_model
from tests.helpers.reference import loop_of, quick_depthwise
from tests.helpers.tolerances import assert_close


@pytest.mark.parametrize("kernel", [3, (5, 2)])
@pytest.mark.parametrize("stride, padding, dilation", [(1, 0, 1), (2, 1, 1), ((1, 3), (2, 0), (2, 1))])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [6, 3])
def test_quick_depthwise_convolutions_are_pytorchs(
    kernel: int, stride: int, padding: int, dilation: int, bias: bool, groups: int
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 6, kernel, stride, padding, dilation, groups, bias).double()
    x = torch.randn(2, 6, 17, 14, dtype=torch.float64)
    with torch.no_grad():
        expected = layer(x)
        with quick_depthwise():
            actual = layer(x)
        assert torch.equal(layer(x), expected)
    assert_close(actual, expected, torch.float64)


def test_the_cache_distinguishes_models_and_images() -> None:
    models = [tiny_model(seed) for seed in (0, 1)]
    images = torch.randn(2, 3, *models[0].config.image_size, generator=torch.Generator().manual_seed(2))
    for _ in range(2):
        for model in models:
            with torch.no_grad():
                expected = LoopPass(model.compile_plan(), batch=16).features(model.double(), images.double())
            for actual, reference in zip(loop_of(model.float(), images), expected, strict=True):
                assert_close(actual, reference, torch.float64)
