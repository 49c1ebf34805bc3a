"""Checks of a stain's parameters: a wrong value raises ConfigError with its name and the legal values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from glance_fast.errors import ConfigError

Range = tuple[float, float]


def check_range(name: str, value: Any, legal: Range) -> None:
    """Raise ConfigError unless `value` is two finite numbers, low ≤ high, within `legal`."""
    if not isinstance(value, tuple) or len(value) != 2 or not all(is_number(v) for v in value):
        raise ConfigError(f"{name} must be two numbers (low, high), got {value!r}")
    if not legal[0] <= value[0] <= value[1] <= legal[1]:
        low, high = legal
        raise ConfigError(f"{name} must be {low:g} ≤ low ≤ high ≤ {high:g}, got {value}; reorder or clip")


def check_share(name: str, value: Any) -> None:
    """Raise ConfigError unless `value` is a probability."""
    if not is_number(value) or not 0 <= value <= 1:
        raise ConfigError(f"{name} is a probability and must be from 0 to 1, got {value!r}")


def check_counts(name: str, value: Any, legal: tuple[int, int]) -> None:
    """Raise ConfigError unless `value` is two whole numbers, low ≤ high, within `legal`."""
    check_range(name, value, legal)
    if not all(isinstance(v, int | np.integer) for v in value):
        raise ConfigError(f"{name} must be whole numbers from {legal[0]} to {legal[1]}, got {value}")


def check_type(name: str, value: Any, kind: type) -> None:
    """Raise ConfigError unless `value` is a `kind`."""
    if not isinstance(value, kind):
        raise ConfigError(f"{name} must be a {kind.__name__}(...), got {value!r}")


def is_number(value: Any) -> bool:
    """Whether `value` is a finite real number."""
    return isinstance(value, int | float | np.integer | np.floating) and math.isfinite(value)
