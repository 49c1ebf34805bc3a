"""The path of `export` in version 0.1.0; its name is `glance_fast.export_model` now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glance_fast.errors import ConfigError
from glance_fast.export.export import export as _export


def export(*arguments: Any, **options: Any) -> Path:
    """`glance_fast.export_model`; raises ConfigError for the argument `plan`, whose name is `tensorrt` now."""
    if "plan" in options:
        raise ConfigError("the argument 'plan' of export is now 'tensorrt'")
    return _export(*arguments, **options)
