"""glance_fast: find and locate defects in photographs of manufactured things, learned from normal photographs alone."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from glance_fast.config import ModelConfig, TrainConfig
from glance_fast.errors import GlanceError, MissingDependencyError
from glance_fast.version import __version__

if TYPE_CHECKING:
    from glance_fast.engine import Engine
    from glance_fast.postprocessing.result import Result
    from glance_fast.training.train import Job, train_model

__all__ = ["Engine", "GlanceError", "Job", "ModelConfig", "Result", "TrainConfig", "__version__", "train_model"]

# What needs PyTorch is imported when it is first asked for: `import glance_fast` takes milliseconds.
_LAZY = {
    "Engine": "glance_fast.engine",
    "Result": "glance_fast.engine",
    "Job": "glance_fast.training.train",
    "train_model": "glance_fast.training.train",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'glance_fast' has no attribute {name!r}; it has {', '.join(__all__)}")
    try:
        return getattr(import_module(_LAZY[name]), name)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"glance_fast.{name} needs the package {error.name!r}; install it with: pip install 'glance-fast[train]'"
        ) from error
