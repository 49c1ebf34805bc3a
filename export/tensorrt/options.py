"""Options of a TensorRT build; they do not need TensorRT itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from glance_fast.errors import ConfigError

# Images per launch unless another batch is requested.
DEFAULT_BATCH = 8


@dataclass(frozen=True)
class TensorRtOptions:
    """How a TensorRT engine is built; raises ConfigError for a batch outside 1 to 256.

    `batch`: maximum images per launch. `any_version`: the engine also runs on later TensorRT versions of the same major
    number, by the lean runtime. `any_gpu`: it also runs on other GPUs from Ampere on, more slowly. `timing_cache`: a
    file of measured timings, read and extended, which makes the next build faster.
    """

    batch: int = DEFAULT_BATCH
    any_version: bool = False
    any_gpu: bool = False
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= 256:
            raise ConfigError(f"a TensorRT engine's batch must be from 1 to 256, got {self.batch}")
