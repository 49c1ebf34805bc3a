"""Interleaved timing: each turn runs every case once, so that a change of the machine's speed affects all cases."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import track

from bench.harness.runners import BASE, Point
from glance_fast.commands.energy import EnergyMeter

# Seconds before each run, in which the threads of the previous case stop waiting actively.
REST = 0.05


@dataclass(frozen=True)
class Case:
    """One row of a table: a method in a runtime at a precision, for the images of a point.

    `run` computes them once; where it computes only a part of them, `repeats` such runs cost as much as the images.
    `macs`: multiply-adds per image in matrix products and convolutions. `streamed_bytes`: constants that a run reads
    from memory once, for one product each, and that no cache holds. `starts_at` and `ends_at`: what a run includes.
    `memory_args`: the arguments of `bench.harness.peak_memory` that run the case in a process of its own.
    """

    method: str
    runtime: str
    precision: str
    run: Callable[[], object]
    macs: float
    streamed_bytes: float = 0.0
    repeats: float = 1.0
    point: Point = BASE
    starts_at: str = ""
    ends_at: str = ""
    memory_args: tuple[str, ...] | None = None


@dataclass
class Measurement:
    """Seconds and joules of each turn of a case, for all images of its point; no joules without energy counters."""

    seconds: list[float] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)


def run_interleaved(cases: Sequence[Case], turns: int, rest: float | None = None) -> list[Measurement]:
    """Run every case once per turn, after `rest` seconds (REST if None); the first of `turns` + 1 is not counted."""
    measurements, meter = [Measurement() for _ in cases], EnergyMeter()
    for turn in track(range(turns + 1), "Turns", console=Console(stderr=True), transient=True):
        for case, measurement in zip(cases, measurements, strict=True):
            time.sleep(REST if rest is None else rest)
            cost = meter.measure(case.run)
            if turn:
                measurement.seconds.append(cost.seconds * case.repeats)
                measurement.joules += [] if cost.joules is None else [cost.joules * case.repeats]
    return measurements
