"""Synthetic surface defects: composable stains that turn normal images into examples with exact masks."""

from __future__ import annotations

from glance_fast.stains.base import VISIBLE, Stain, Stained
from glance_fast.stains.compose import OneOf, Several, default_stains
from glance_fast.stains.lines import Crack, Scratch
from glance_fast.stains.parameters import Outline, Size, Tone
from glance_fast.stains.raster import Floats
from glance_fast.stains.regions import Blur, PastedTexture, RegionShift
from glance_fast.stains.spots import Blob, Pit, Shade

__all__ = [
    "VISIBLE",
    "Blob",
    "Blur",
    "Crack",
    "Floats",
    "OneOf",
    "Outline",
    "PastedTexture",
    "Pit",
    "RegionShift",
    "Scratch",
    "Several",
    "Shade",
    "Size",
    "Stain",
    "Stained",
    "Tone",
    "default_stains",
]
