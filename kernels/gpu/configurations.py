"""How large the pieces of a kernel's work are: as measured on a device, or else sizes that fit every device.

`configurations.json` has a row for each kernel, device, channels and dtype that `python -m bench.tune` found a faster
configuration for, with its time and the one of the sizes that fit everywhere. Nothing is tuned while images are scored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from glance_fast.errors import ConfigError

FILE = Path(__file__).with_name("configurations.json")
LEGAL: dict[str, tuple[int, ...]] = {
    "BLOCK_M": (16, 32, 64, 128, 256),
    "BLOCK_N": (8, 16, 32, 64, 128),
    "BLOCK_K": (16, 32, 64, 128),
    "num_warps": (1, 2, 4, 8, 16),
    "num_stages": (1, 2, 3, 4, 5, 6),
}
# Options that stand for a place while a tuner tries them.
_tried: dict[Place, dict[str, int]] = {}


@dataclass(frozen=True)
class Place:
    """What a configuration is for: a device's name, a kernel, the channels (or features) of both sides, and a dtype."""

    device: str
    kernel: str
    channels: tuple[int, int]
    dtype: str


def place_of(kernel: str, channels: tuple[int, int], device: torch.device | str, dtype: torch.dtype) -> Place:
    """The place of a kernel that works on tensors of this type there."""
    return Place(_name(torch.device(device)), kernel, channels, str(dtype).removeprefix("torch."))


def configured(place: Place) -> dict[str, int]:
    """What differs there from the sizes that fit every device: constants and Triton's options."""
    return _tried[place] if place in _tried else _table().get(place, {})


def block_of(place: Place, usual: int) -> int:
    """Entries that a program takes there, `usual` where nothing else was measured to be faster."""
    return configured(place).get("BLOCK_M", usual)


@contextmanager
def trying(place: Place, options: Mapping[str, int]) -> Iterator[None]:
    """Meanwhile `options` stand for a place."""
    _tried[place] = dict(options)
    try:
        yield
    finally:
        del _tried[place]


def read(text: str) -> dict[Place, dict[str, int]]:
    """The table in a JSON text; raises ConfigError for a row that is not one."""
    found = {}
    for row in json.loads(text):
        options = row["options"]
        wrong = [name for name, value in options.items() if value not in LEGAL.get(name, ())]
        if wrong or len(row["channels"]) != 2:
            raise ConfigError(f"a configuration may have {LEGAL} and two channels; this one has not: {row}")
        found[Place(row["device"], row["kernel"], tuple(row["channels"]), row["dtype"])] = options
    return found


@cache
def _table() -> dict[Place, dict[str, Any]]:
    return read(FILE.read_text(encoding="utf-8"))


@cache
def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
