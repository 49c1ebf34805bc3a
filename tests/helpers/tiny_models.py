"""A tiny untrained model and a folder of it, for tests that need a model but not a trained one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from glance_fast.config import ModelConfig, TrainConfig
from glance_fast.models.model import GlanceModel
from glance_fast.postprocessing.calibration import Calibration
from glance_fast.storage.atomic_write import replace_folder
from glance_fast.storage.model_folder import write_model

METADATA = {"data": "tiles", "teacher": "none"}
TRAIN = TrainConfig(seed=3, images_per_step=2)


def tiny_config(**changes: Any) -> ModelConfig:
    """48x56 pixels, patches of 16 at stride 8: a grid of 5x6 locations."""
    values: dict[str, Any] = {
        "image_size": (48, 56),
        "patch": 16,
        "stride": 8,
        "features": 8,
        "local_channels": (6, 8),
        "global_channels": (6, 8, 8, 8),
        "dad_width": 8,
    }
    return ModelConfig.model_validate({**values, **changes})


def tiny_model(seed: int = 0, **changes: Any) -> GlanceModel:
    """Random weights and biases, large enough that scores differ clearly between locations."""
    torch.manual_seed(seed)
    model = GlanceModel(tiny_config(**changes))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5) if weight.dim() > 1 else weight.normal_(0, 0.1)
    return model.eval()


def tiny_calibration() -> Calibration:
    scores = tuple(0.1 * i for i in range(20))
    return Calibration(
        scores=scores, false_alarm_rate=0.1, threshold=1.8, pixel_false_alarm_rate=0.01, pixel_threshold=1.5
    )


def save_tiny(path: Path, model: GlanceModel) -> Path:
    """Save `model` as the folder `path`, replacing what is there."""
    with replace_folder(path) as folder:
        write_model(folder, model, TRAIN, tiny_calibration(), METADATA)
    return path
