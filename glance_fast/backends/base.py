"""What the engine needs of a backend."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, Protocol

METHODS = ("dense", "loop")


class Backend(Protocol):
    """Runs the networks on images of the model's size; any number of threads may ask at once."""

    @property
    def name(self) -> str: ...

    @property
    def methods(self) -> tuple[str, ...]: ...

    @property
    def takes_tensors(self) -> bool:
        """Whether images may be torch tensors, which then stay where they are."""

    @property
    def streams(self) -> int:
        """Images that it scores best at once, each asked for by a thread of its own."""

    @property
    def place(self) -> str:
        """Where it runs, for people: "cpu", "cuda:0", "cpu at bf16"."""

    def grids(self, images: Sequence[Any], method: str = "dense") -> Sequence[Any]:
        """Scores of all locations of each image, float32 [gy, gx].

        Images are uint8 [H, W, 3], arrays or, where it takes them, tensors; grids are arrays or tensors.
        """


def cpu_threads() -> int:
    """Threads of a CPU runtime: the cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def place(precision: str, streams: int, plugins: bool = False) -> str:
    """Where a CPU runtime runs, for people."""
    return f"cpu at {precision}" + ", with plugins" * plugins + (f", {streams} streams" if streams > 1 else "")
