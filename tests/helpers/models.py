"""Tiny untrained models and folders of them, for tests that need a model but not a trained one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from glance_fast.backends.self_check import make_self_check
from glance_fast.config import ModelConfig, TrainConfig
from glance_fast.export.export import export
from glance_fast.models.model import GlanceModel
from glance_fast.postprocessing.calibration import Calibration
from glance_fast.storage.atomic_write import replace_folder
from glance_fast.storage.model_folder import SELF_CHECK, write_model
from glance_fast.storage.self_check import SelfCheck
from tests.helpers.images import textured_image

METADATA = {"data": "tiles", "teacher": "none"}
TRAIN = TrainConfig(seed=3, images_per_step=2)
# A model with a pretrained Local-Net: what `tiny_config` must change of its own values.
PRETRAINED: dict[str, Any] = {
    "local_net": "pretrained", "patch": 83, "stride": 24, "border_padding": 38, "location_whitening": True,
    "global_channels": (6, 8, 8, 8), "global_convs": 2,
}  # fmt: skip
# Models whose exports are held to the loop: every setting that changes the graph is in one of them.
EXPORT_CASES: list[dict[str, Any]] = [
    {},
    {"image_size": (37, 53), "patch": 11, "stride": 3, "top_k": 4},
    {"image_size": (64, 41), "stride": 9, "global_convs": 2, "readout": 2},
    {
        "image_size": (53, 37),
        "patch": 8,
        "stride": 5,
        "readout": 3,
        "global_channels": (6, 8, 8),
        "smoothing_sigma": 0.75,
    },
    {"image_size": (37, 53), "patch": 19, "stride": 4, "border_padding": 9, "location_whitening": True},
    {"image_size": (110, 91), **PRETRAINED, "smoothing_sigma": 1.5},
    {"image_size": (120, 105), **PRETRAINED, "stride": 20, "border_padding": 30, "readout": 2},
    {"image_size": (143, 115), **PRETRAINED, "stride": 28, "border_padding": 0, "features": 168},
    {"image_size": (90, 101), **PRETRAINED, "stride": 8, "border_padding": 12, "context_features": 5},
    {"image_size": (75, 150), **PRETRAINED, "feature_block": 3, "global_channels": (6, 8, 8)},
]


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


def save_tiny(path: Path, model: GlanceModel, check: SelfCheck | None = None) -> Path:
    """Save `model` as the folder `path`, replacing what is there; `check`: another self-check than its own."""
    with replace_folder(path) as folder:
        check = check or make_self_check(model, textured_image(*model.config.image_size))
        write_model(folder, model, TRAIN, tiny_calibration(), METADATA, check)
    return path


def edit_config(folder: Path, change: Callable[[dict[str, Any]], Any], reseal: bool = True) -> None:
    """Change config.json; with `reseal` its hashes are right again, as someone who means harm would set them."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    if reseal and isinstance(config.get("sha256"), dict):
        for name in set(config) - {"sha256"}:
            text = json.dumps(config[name], sort_keys=True, separators=(",", ":"))
            config["sha256"][name] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(config))


def as_format_3(config: dict[str, Any]) -> None:
    """Change a config.json to format 3, which has no self-check."""
    config["format"] = 3
    del config["sha256"][SELF_CHECK]


def plant(folder: Path, name: str, data: bytes) -> None:
    """Put a file into a model folder, or into an export in it, with its right SHA-256."""
    path = folder / name
    path.write_bytes(data)
    if path.parent != folder:
        record = json.loads(path.with_suffix(".json").read_text())
        record["sha256"][path.suffix] = hashlib.sha256(data).hexdigest()
        path.with_suffix(".json").write_text(json.dumps(record))
        return
    edit_config(folder, lambda config: config["sha256"].update({name: hashlib.sha256(data).hexdigest()}))


def fitted_model(changes: Mapping[str, Any]) -> GlanceModel:
    """A tiny model whose whitening and scaling of scores, which training fits, are not the identity."""
    model = tiny_model(**changes)
    if model.whitening is not None:
        torch.manual_seed(5)
        model.whitening.mean.normal_(0, 0.3)
        model.whitening.matrix.add_(0.2 * torch.randn_like(model.whitening.matrix).tril())
        model.score_offset.copy_(torch.tensor([0.4, -0.2]))
        model.score_scale.copy_(torch.tensor([1.3, 0.7]))
    return model


def save_exported(path: Path, model: GlanceModel) -> Path:
    """Save `model` with its exports to ONNX and OpenVINO at the precisions that need no images."""
    save_tiny(path, model)
    for name, precisions in (("onnx", ("fp32", "fp16")), ("openvino", ("fp32", "bf16", "fp16"))):
        for precision in precisions:
            export(path, name, precision)
    return path
