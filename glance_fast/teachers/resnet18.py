"""ResNet-18, the paper's teacher, in torchvision's layout; a local weights file needs no torchvision."""

from __future__ import annotations

from collections import OrderedDict
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glance_fast.errors import MissingDependencyError, ModelFolderError
from glance_fast.teachers.base import Teacher, TeacherStage, Weights, fit_weights, fold_batch_norm, read_weights

NAME = "resnet18"
CLASSIFIER = ("fc.weight", "fc.bias")


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or before != width:
            shortcut = nn.Conv2d(before, width, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out = self.relu(out + self.downsample(x))
        assert isinstance(out, Tensor)
        return out


def resnet18() -> nn.Sequential:
    """The whole network, images [N, 3, H, W] -> logits [N, 1000]; its state dict has torchvision's names."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
    layers["bn1"] = nn.BatchNorm2d(64)
    layers["relu"] = nn.ReLU(inplace=True)
    layers["maxpool"] = nn.MaxPool2d(3, 2, 1)
    before = 64
    for level, (width, stride) in enumerate(((64, 1), (128, 2), (256, 2), (512, 2)), start=1):
        layers[f"layer{level}"] = nn.Sequential(_BasicBlock(before, width, stride), _BasicBlock(width, width, 1))
        before = width
    layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(512, 1000)
    return nn.Sequential(layers)


def load_resnet18(path: Path | None = None) -> Teacher:
    """ResNet-18 with the weights of the file `path`, or with those that torchvision downloads; dim 1536.

    Raises MissingDependencyError with neither file nor torchvision, ModelFolderError for a damaged or foreign
    file or a failed download.
    """
    weights = read_weights(path) if path else _downloaded()
    with torch.device("meta"):
        network = resnet18()
    fit_weights(network, weights, optional=CLASSIFIER)
    origin = f"the file {path.name}" if path else f"ImageNet, torchvision's {weights.path.name}"
    source = f"ResNet-18, weights: {origin}, SHA-256 {weights.sha256[:16]}"
    return Teacher(NAME, _stages(network.eval()), source)


def fold_batch_norms(network: nn.Sequential) -> None:
    """Fold every batch norm of `resnet18()`, in eval mode, into the convolution before it."""
    fold_batch_norm(network, "conv1", "bn1")
    for block in network.modules():
        if isinstance(block, _BasicBlock):
            fold_batch_norm(block, "conv1", "bn1")
            fold_batch_norm(block, "conv2", "bn2")
            if isinstance(block.downsample, nn.Sequential):
                fold_batch_norm(block.downsample, "0", "1")


def _stages(network: nn.Sequential) -> list[TeacherStage]:
    """The layers up to layer3, batch norms folded; layer4 and the classifier are left out."""
    fold_batch_norms(network)
    first = [network.get_submodule(name) for name in ("conv1", "relu", "maxpool", "layer1", "layer2")]
    return [TeacherStage(nn.Sequential(*first), 128), TeacherStage(network.get_submodule("layer3"), 256)]


def _downloaded() -> Weights:
    """torchvision's weights from torch's download folder, downloaded into it if they are not there yet."""
    published = _torchvision_weights()
    path = Path(torch.hub.get_dir(), "checkpoints", Path(published.url).name)
    if not path.exists():
        try:
            published.get_state_dict(check_hash=True, weights_only=True, map_location="cpu")
        except (OSError, RuntimeError) as error:
            raise ModelFolderError(
                f"{path} could not be downloaded from {published.url} ({error}); download it on another "
                "machine and give it as the teacher's weights"
            ) from error
    return read_weights(path)


def _torchvision_weights() -> Any:
    try:
        return import_module("torchvision").models.ResNet18_Weights.IMAGENET1K_V1
    # A torchvision built for another torch raises RuntimeError; before version 0.13 it did not have this name.
    except (ImportError, RuntimeError, AttributeError) as error:
        raise MissingDependencyError(
            f"the teacher {NAME} has no weights: no file was given and torchvision cannot be used ({error}); "
            "give a local resnet18-f37072fd.pth or .safetensors file as the teacher's weights, or install "
            "the torchvision that belongs to your torch"
        ) from error
