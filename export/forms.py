"""The path of `export` in version 0.1.0; its name is `glance_fast.export_model` now."""

from __future__ import annotations

from glance_fast.export.export import export

__all__ = ["export"]
