"""Named settings: what to train where nothing else is asked for, and what it costs."""

from __future__ import annotations

from typing import Any

from glance_fast.errors import ConfigError

Tables = dict[str, dict[str, Any]]

DEFAULT = "fast"

_TRUNK: dict[str, Any] = {
    "local_net": "trunk",
    "patch": 83,
    "stride": 8,
    "overhang": 38,
    "location_norm": True,
    "dad_width": 128,
}
_TRUNK_TRAINING: dict[str, Any] = {
    "images": 4,
    "holes": 8,
    "jitter": 0.05,
    "dad_holes": 32,
    "learning_rate": 2e-3,
}

# Multiply-adds an image at 256x256, both networks: bench/LOG.md has what else was tried.
PRESETS: dict[str, Tables] = {
    "fast": {
        "model": {**_TRUNK, "features": 96, "global_channels": (32, 48, 64, 96, 128), "lam": 0.2},
        "train": {**_TRUNK_TRAINING, "global_steps": 600, "dad_steps": 300},
    },
    "accurate": {
        "model": {**_TRUNK, "features": 168, "global_channels": (48, 64, 96, 128, 128), "lam": 0.2},
        "train": {**_TRUNK_TRAINING, "global_steps": 800, "dad_steps": 400},
    },
    "paper": {"model": {}, "train": {}},
}


def preset(name: str) -> Tables:
    """The tables `model` and `train` of a preset, as copies; raises ConfigError for an unknown name."""
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; legal are {', '.join(PRESETS)}")
    return {table: dict(values) for table, values in PRESETS[name].items()}
