"""The teachers' networks, held to plain recomputations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from glance_fast.teachers import Teacher
from glance_fast.teachers.base import IMAGENET_MEAN, IMAGENET_STD, fit_weights, read_weights
from glance_fast.teachers.resnet18 import resnet18
from tests.helpers.teachers import LITE0, SIZES, State, random_patches
from tests.helpers.tolerances import assert_near


def shown(x: Tensor) -> Tensor:
    """The network's input, computed independently: resized and normalised."""
    side = x.shape[-1]
    size = 64 if side <= 32 else min(128, 32 * int(2 * side / 32 + 0.5))
    x = F.interpolate(x, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return torch.stack([(x[:, c] - IMAGENET_MEAN[c]) / IMAGENET_STD[c] for c in range(3)], dim=1)


def quarters(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, x.shape[-1] // 2).flatten(1)


def lite0_network(**options: Any) -> nn.Module:
    network: nn.Module = EfficientNet.from_name("efficientnet-lite0", **options)
    network.load_state_dict(torch.load(LITE0, weights_only=True))
    return network.eval()


@pytest.mark.parametrize("side", SIZES)
@torch.no_grad()
def test_lite0_is_the_package_network(teachers: dict[str, Teacher], side: int) -> None:
    # image_size=None makes the package compute each padding from the map at hand.
    network, maps = lite0_network(image_size=None), {}
    for index in (4, 10):
        block = network.get_submodule(f"_blocks.{index}")
        block.register_forward_hook(lambda _module, _inputs, out, index=index: maps.update({index: out}))
    x = random_patches(2, side)
    network(shown(x))
    expected = torch.cat([quarters(maps[4]), quarters(maps[10])], dim=1)
    assert_near(teachers["efficientnet-lite0"](x), expected, "teacher")


@torch.no_grad()
def test_lite0_classifies_a_cat() -> None:
    with torch.device("meta"):
        network = EfficientNet.from_name("efficientnet-lite0")
    fit_weights(network, read_weights(LITE0))
    image = np.ascontiguousarray(skimage.data.chelsea()[:, 75:375])  # type: ignore[no-untyped-call]
    x = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    x = F.interpolate(x, (224, 224), mode="bilinear", antialias=True)
    x = (x - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    assert int(network.eval()(x).argmax()) in range(281, 286)


def conv_norm(x: Tensor, state: State, names: tuple[str, str], stride: int = 1) -> Tensor:
    """One convolution and its batch norm straight from a state dict, by the formula."""
    weight = state[f"{names[0]}.weight"]
    x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
    scale, bias, mean, var = (state[f"{names[1]}.{part}"] for part in ("weight", "bias", "running_mean", "running_var"))
    return (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt() * scale[:, None, None] + bias[:, None, None]


def resnet_maps(x: Tensor, state: State) -> list[Tensor]:
    """The maps of layer1 to layer4, recomputed in the state's dtype."""
    x = F.max_pool2d(conv_norm(x, state, ("conv1", "bn1"), 2).relu(), 3, 2, 1)
    maps = []
    for level in (1, 2, 3, 4):
        for block in (0, 1):
            at, stride = f"layer{level}.{block}", 2 if level > 1 and block == 0 else 1
            out = conv_norm(x, state, (f"{at}.conv1", f"{at}.bn1"), stride).relu()
            out = conv_norm(out, state, (f"{at}.conv2", f"{at}.bn2"))
            if stride == 2:
                x = conv_norm(x, state, (f"{at}.downsample.0", f"{at}.downsample.1"), 2)
            x = (out + x).relu()
        maps.append(x)
    return maps


@pytest.mark.parametrize("side", SIZES)
@torch.no_grad()
def test_resnet_is_the_formula(teachers: dict[str, Teacher], random_state: State, side: int) -> None:
    x = random_patches(2, side)
    maps = resnet_maps(shown(x).double(), {name: value.double() for name, value in random_state.items()})
    expected = torch.cat([quarters(maps[1]), quarters(maps[2])], dim=1)
    assert_near(teachers["resnet18"](x), expected.float(), "teacher")


@torch.no_grad()
def test_whole_resnet_has_torchvisions_layout(random_state: State) -> None:
    network = resnet18().eval()
    network.load_state_dict(random_state)
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_689_512
    assert len(random_state) == 122
    for name in (
        "conv1.weight",
        "layer2.0.downsample.1.running_var",
        "layer4.1.bn2.num_batches_tracked",
        "fc.bias",
    ):
        assert name in random_state
    x = random_patches(1, 64)
    pooled = resnet_maps(x, random_state)[3].mean((2, 3))
    expected = pooled @ random_state["fc.weight"].T + random_state["fc.bias"]
    assert_near(network(x), expected, "teacher")
