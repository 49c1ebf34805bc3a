"""How a TensorRT plan is built; TensorRT itself need not be there to say so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from glance_fast.errors import ConfigError

# Images that one launch may take where nothing else is asked for.
LAUNCH = 8


@dataclass(frozen=True)
class PlanOptions:
    """How a plan is built.

    `batch`: images that one launch may take at most. `any_version`: the plan also runs on later versions of the same
    major one, by the lean runtime. `any_gpu`: it also runs on other GPUs from Ampere on, more slowly. `timing_cache`:
    a file that measured timings are taken from and added to, which makes the next build faster.
    """

    batch: int = LAUNCH
    any_version: bool = False
    any_gpu: bool = False
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= 256:
            raise ConfigError(f"a plan's batch must be from 1 to 256, got {self.batch}")
