"""The teachers R that a Local-Net is distilled from, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from glance_fast.errors import ConfigError
from glance_fast.teachers.base import Teacher
from glance_fast.teachers.efficientnet_lite import load_efficientnet_lite0
from glance_fast.teachers.resnet18 import load_resnet18

__all__ = ["Teacher", "load_teacher"]

_LOADERS: dict[str, Callable[[Path | None], Teacher]] = {
    "efficientnet-lite0": load_efficientnet_lite0,
    "resnet18": load_resnet18,
}


def load_teacher(name: str = "efficientnet-lite0", weights: Path | None = None) -> Teacher:
    """The teacher of that name, on the CPU, with the weights of the file `weights`, or the published ones.

    Raises ConfigError for an unknown name, MissingDependencyError when the package of the network or of its weights is
    not installed, ModelFolderError for weights that are damaged, foreign or of another network.
    """
    if name not in _LOADERS:
        raise ConfigError(f"unknown teacher {name!r}; legal teachers are {', '.join(_LOADERS)}")
    return _LOADERS[name](None if weights is None else Path(weights))
