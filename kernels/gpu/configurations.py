"""Launch options of the kernels: those measured to be fastest on a device, or else options that fit every device.

`configurations.json` has a row for each kernel, device, channels and dtype for which `python -m bench.tune` measured
faster options, with their time and that of the options that fit everywhere. Nothing is tuned while images are scored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from glance_fast.errors import ConfigError

FILE = Path(__file__).with_name("configurations.json")
LEGAL_OPTIONS: dict[str, tuple[int, ...]] = {
    "BLOCK_M": (16, 32, 64, 128, 256),
    "BLOCK_N": (8, 16, 32, 64, 128),
    "BLOCK_K": (16, 32, 64, 128),
    "num_warps": (1, 2, 4, 8, 16),
    "num_stages": (1, 2, 3, 4, 5, 6),
}
Options = dict[str, int]


@dataclass(frozen=True)
class TuningKey:
    """What options are for: a device's name, a kernel, the channels (or features) in and out, and a dtype."""

    device: str
    kernel: str
    channels: tuple[int, int]
    dtype: str


# Options that replace the table's. A context variable: other threads, which may be scoring, do not see them.
_overrides: ContextVar[Mapping[TuningKey, Options]] = ContextVar("overrides", default=MappingProxyType({}))


def tuning_key(kernel: str, channels: tuple[int, int], device: torch.device | str, dtype: torch.dtype) -> TuningKey:
    """The key of a kernel that works on tensors of this dtype on this device."""
    return TuningKey(_device_name(torch.device(device)), kernel, channels, str(dtype).removeprefix("torch."))


def tuned_options(key: TuningKey) -> Options:
    """Constants and Triton's options that differ from those that fit every device; empty without a row."""
    overrides = _overrides.get()
    return overrides[key] if key in overrides else _table().get(key, {})


def tuned_tile_size(key: TuningKey, default: int) -> int:
    """Entries per program: `default` where no other number was measured to be faster."""
    return tuned_options(key).get("BLOCK_M", default)


@contextmanager
def override_options(key: TuningKey, options: Mapping[str, int]) -> Iterator[None]:
    """Replace the options of `key` within the with-block, in this thread alone; for tuners and tests."""
    token = _overrides.set({**_overrides.get(), key: dict(options)})
    try:
        yield
    finally:
        _overrides.reset(token)


def parse(text: str) -> dict[TuningKey, Options]:
    """The table in a JSON text; raises ConfigError for a row with other options or channels than are legal."""
    table = {}
    for row in json.loads(text):
        options = row["options"]
        wrong = [name for name, value in options.items() if value not in LEGAL_OPTIONS.get(name, ())]
        if wrong or len(row["channels"]) != 2:
            raise ConfigError(f"a configuration may have {LEGAL_OPTIONS} and two channels; this one has not: {row}")
        table[TuningKey(row["device"], row["kernel"], tuple(row["channels"]), row["dtype"])] = options
    return table


@cache
def _table() -> dict[TuningKey, dict[str, Any]]:
    return parse(FILE.read_text(encoding="utf-8"))


@cache
def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
