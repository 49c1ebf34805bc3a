"""Upgrades model folders of earlier formats in memory as they are read; nothing on disk is rewritten."""

from __future__ import annotations

from typing import Any, TypeVar

from glance_fast.config import Settings
from glance_fast.errors import ConfigError

Value = TypeVar("Value")

MODEL_FOLDER_FORMAT = 4
READABLE_FORMATS = (1, 2, 3, 4)
# Format 1 has other names.
RENAMED_SINCE = 2
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


def upgrade_settings(kind: type[Settings], values: dict[str, Any], written_as: int, source: str) -> dict[str, Any]:
    """Settings written in format `written_as`, by the names and values of today.

    Raises ConfigError, which names `source`, for a name that format 1 has not.
    """
    if "alpha" in kind.model_fields:
        # Models from before the setting existed were trained on images whose transparency was laid over black.
        values = {"alpha": "blend"} | values
    if written_as >= RENAMED_SINCE:
        return values
    names = {field: field for field in kind.model_fields if field not in kind.former_names.values()} | kind.former_names
    unknown = [name for name in values if name not in names]
    if unknown:
        raise ConfigError(
            f"{source}: unknown setting '{unknown[0]}'; legal settings of format 1 are {', '.join(names)}"
        )
    return {names[name]: _upgrade_value(kind, names[name], value) for name, value in values.items()}


def _upgrade_value(kind: type[Settings], name: str, value: Any) -> Any:
    return kind.former_values.get(name, {}).get(value, value) if isinstance(value, str) else value


def upgrade_weights(weights: dict[str, Value], written_as: int) -> dict[str, Value]:
    """What belongs to a model's tensors by name, written in format `written_as`, by the names of today."""
    if written_as >= RENAMED_SINCE:
        return weights
    return {_upgrade_tensor_name(name): tensor for name, tensor in weights.items()}


def _upgrade_tensor_name(name: str) -> str:
    for former, current in FORMER_TENSORS.items():
        if name == former or (former.endswith(".") and name.startswith(former)):
            return current + name.removeprefix(former)
    return name
