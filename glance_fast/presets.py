"""Named settings: what to train where nothing else is asked for, and what it costs."""

from __future__ import annotations

from typing import Any

from glance_fast.errors import ConfigError

Tables = dict[str, dict[str, Any]]

DEFAULT = "fast"

# docs/networks.md says what these are and why; bench/log/accuracy.md what else was tried.
_NETWORKS: dict[str, Any] = {
    "local_net": "trunk",
    "patch": 83,
    "stride": 8,
    "overhang": 38,
    "lean": 5,
    "location_norm": True,
    "read_block": 3,
    "global_convs": (1, 1, 2),
    "smooth": 0.75,
}
_TRAINING: dict[str, Any] = {
    "images": 4,
    "holes": 8,
    "dad_holes": 32,
    # DAD gains more from many steps on the pool than from many images, and from a pool that is full early: 300 steps of
    # 4 images give 0.942 image AUROC on magnetic tiles where 600 steps on 1,000 images give 0.951 to 0.961.
    "dad_images": 3,
    "dad_steps": 900,
    "dad_fill": 1 / 3,
    "learning_rate": 2e-3,
}

PRESETS: dict[str, Tables] = {
    "fast": {
        "model": {**_NETWORKS, "features": 96, "wide": 64, "lam": 0.4, "global_channels": (32, 48, 64)},
        "train": {**_TRAINING, "global_steps": 1200},
    },
    "accurate": {
        "model": {**_NETWORKS, "features": 168, "wide": 64, "lam": 0.3, "global_channels": (64, 96, 128)},
        "train": {**_TRAINING, "global_steps": 600},
    },
    "paper": {"model": {}, "train": {}},
}


def preset(name: str) -> Tables:
    """The tables `model` and `train` of a preset, as copies; raises ConfigError for an unknown name."""
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; legal are {', '.join(PRESETS)}")
    return {table: dict(values) for table, values in PRESETS[name].items()}
