"""The interface between the engine and what runs the networks."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, Protocol

from glance_fast.storage.export_record import ExportRecord

METHODS = ("dense", "loop")


class Backend(Protocol):
    """Runs the networks on images of the model's size. Any number of threads may call it at once."""

    @property
    def name(self) -> str: ...

    @property
    def methods(self) -> tuple[str, ...]:
        """Those of `METHODS` that it runs."""

    @property
    def takes_tensors(self) -> bool:
        """Whether images may be torch tensors, which then stay on their device."""

    @property
    def streams(self) -> int:
        """Number of images to score concurrently, each in a thread of its own."""

    @property
    def device_description(self) -> str:
        """The device and precision, for people: "cpu", "cuda:0", "cpu at bf16"."""

    @property
    def export(self) -> ExportRecord | None:
        """The record of the export that it runs; None where it runs the weights themselves."""

    def grids(self, images: Sequence[Any], method: str = "dense") -> Sequence[Any]:
        """Scores of all locations of each image, float32 [gy, gx].

        Images are uint8 [H, W, 3], arrays or, with `takes_tensors`, tensors. Grids are arrays or tensors that belong to
        the caller: no later run writes to them.
        """


def cpu_threads() -> int:
    """Threads of a CPU runtime: the cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_cpu(precision: str, streams: int, plugins: bool = False) -> str:
    """A CPU runtime's `Backend.device_description`."""
    return f"cpu at {precision}" + ", with plugins" * plugins + (f", {streams} streams" if streams > 1 else "")
