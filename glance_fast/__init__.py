"""glance_fast: detect and localize defects in photographs of manufactured objects, trained on normal images alone."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from glance_fast.config import ModelConfig, TrainConfig
from glance_fast.errors import GlanceError, MissingDependencyError, install_hint
from glance_fast.version import __version__

if TYPE_CHECKING:
    from glance_fast.engine import Engine
    from glance_fast.export.export import export as export_model
    from glance_fast.postprocessing.result import FailedResult, Result
    from glance_fast.training.train import Job, train_model

__all__ = [
    "Engine",
    "FailedResult",
    "GlanceError",
    "Job",
    "ModelConfig",
    "Result",
    "TrainConfig",
    "__version__",
    "export_model",
    "train_model",
]

# Module and name of what is imported when it is first used: `import glance_fast` takes milliseconds, PyTorch seconds.
_LAZY = {
    "Engine": ("glance_fast.engine", "Engine"),
    "FailedResult": ("glance_fast.postprocessing.result", "FailedResult"),
    "Result": ("glance_fast.postprocessing.result", "Result"),
    "Job": ("glance_fast.training.train", "Job"),
    "export_model": ("glance_fast.export.export", "export"),
    "train_model": ("glance_fast.training.train", "train_model"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'glance_fast' has no attribute {name!r}; it has {', '.join(__all__)}")
    module, attribute = _LAZY[name]
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"glance_fast.{name} needs the package {error.name!r}; {install_hint('train')}"
        ) from error
