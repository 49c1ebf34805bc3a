"""The path of `extension` in version 0.1.0; it is in `glance_fast.kernels.cpu.build` now."""

from __future__ import annotations

from glance_fast.kernels.cpu.build import extension

__all__ = ["extension"]
