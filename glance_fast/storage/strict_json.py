"""JSON from files: UTF-8, every key once, finite numbers; and one way to write a value, to compute its hash."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object that `data` holds; ValueError says what is wrong with it."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_float=_finite, parse_constant=_not_a_number)
        # Escapes can make half of a surrogate pair, which no later text could be encoded with.
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it holds no JSON object")
    return value


def canonical(value: Any) -> bytes:
    """The JSON text of a value: the same for the same value, however a file lays it out."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        [(key, count)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {key[:40]!r} is there {count} times")
    return values


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is beyond the range of floats")
    return value


def _not_a_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")
