"""Presets: named settings of a model and of its training."""

from __future__ import annotations

from typing import Any

from glance_fast.errors import ConfigError

Tables = dict[str, dict[str, Any]]

DEFAULT = "fast"

# docs/networks.md explains these values; bench/log/accuracy.md has what else was tried.
_NETWORKS: dict[str, Any] = {
    "local_net": "pretrained",
    "patch": 83,
    "stride": 8,
    "border_padding": 38,
    "center_offset": 5,
    "location_whitening": True,
    "feature_block": 3,
    "global_convs": (1, 1, 2),
    "smoothing_sigma": 0.75,
}
_TRAINING: dict[str, Any] = {
    "images_per_step": 4,
    "holes_per_axis": 8,
    "dad_holes_per_axis": 32,
    # DAD gains more from many steps on the pool than from many images, and from a pool that is full early: 300 steps of
    # 4 images give 0.942 image AUROC on magnetic tiles where 600 steps on 1,000 images give 0.951 to 0.961.
    "dad_images_per_step": 3,
    "dad_steps": 900,
    "dad_pool_fraction": 1 / 3,
    "learning_rate": 2e-3,
}

PRESETS: dict[str, Tables] = {
    "fast": {
        "model": {
            **_NETWORKS,
            "features": 96,
            "context_features": 64,
            "iad_weight": 0.4,
            "global_channels": (32, 48, 64),
        },
        "train": {**_TRAINING, "global_steps": 1200},
    },
    "accurate": {
        "model": {
            **_NETWORKS,
            "features": 168,
            "context_features": 64,
            "iad_weight": 0.3,
            "global_channels": (64, 96, 128),
        },
        "train": {**_TRAINING, "global_steps": 600},
    },
    "paper": {"model": {}, "train": {}},
}


def preset(name: str) -> Tables:
    """The tables `model` and `train` of a preset, as copies; raises ConfigError for an unknown name."""
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; legal are {', '.join(PRESETS)}")
    return {table: dict(values) for table, values in PRESETS[name].items()}
