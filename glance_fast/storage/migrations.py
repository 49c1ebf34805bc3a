"""Upgrades model folders of earlier formats in memory as they are read; nothing on disk is rewritten."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glance_fast.config import ModelConfig, TrainConfig
from glance_fast.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

MODEL_FOLDER_FORMAT = 2
READABLE_FORMATS = (1, 2)
# Format 1: names of tensors, and beginnings of names that end in a dot.
FORMER_TENSORS = {
    "usual": "score_offset",
    "spread": "score_scale",
    "norm.mean": "whitening.mean",
    "norm.whiten": "whitening.matrix",
    "local_net.read_mean": "local_net.feature_map_mean",
    "local_net.read_deviation": "local_net.feature_map_std",
    "local_net.stem.": "local_net.stem_conv.",
    "local_net.wide.": "local_net.context_net.",
}


def upgrade_config(config: dict[str, Any], source: str) -> dict[str, Any]:
    """config.json of any readable format as format 2; ConfigError, which names `source`, for an unknown setting."""
    if config["format"] == MODEL_FOLDER_FORMAT:
        return config
    settings = {
        table: _upgrade_settings(kind, config[table], f"{source}, {table}")
        for table, kind in (("model", ModelConfig), ("train", TrainConfig))
    }
    return config | settings | {"format": MODEL_FOLDER_FORMAT}


def _upgrade_settings(kind: type[ModelConfig | TrainConfig], values: dict[str, Any], source: str) -> dict[str, Any]:
    """Settings of format 1, by the names and values of format 2; ConfigError for a name that format 1 has not."""
    names = {field: field for field in kind.model_fields if field not in kind.former_names.values()} | kind.former_names
    unknown = [name for name in values if name not in names]
    if unknown:
        raise ConfigError(
            f"{source}: unknown setting '{unknown[0]}'; legal settings of format 1 are {', '.join(names)}"
        )
    return {names[name]: _upgrade_value(kind, names[name], value) for name, value in values.items()}


def _upgrade_value(kind: type[ModelConfig | TrainConfig], name: str, value: Any) -> Any:
    return kind.former_values.get(name, {}).get(value, value) if isinstance(value, str) else value


def upgrade_weights(weights: dict[str, Tensor], written_as: int) -> dict[str, Tensor]:
    """A model's tensors, written in format `written_as`, by the names of format 2."""
    if written_as == MODEL_FOLDER_FORMAT:
        return weights
    return {_upgrade_tensor_name(name): tensor for name, tensor in weights.items()}


def _upgrade_tensor_name(name: str) -> str:
    for former, current in FORMER_TENSORS.items():
        if name == former or (former.endswith(".") and name.startswith(former)):
            return current + name.removeprefix(former)
    return name
