"""Cases that take turns, so that a machine that slows down slows them all; seconds and joules of every run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import track

from bench.harness.runners import BASE, Point
from glance_fast.commands.energy import EnergyMeter

# Seconds before each run, in which the threads of the case before it stop waiting actively.
REST = 0.05


@dataclass(frozen=True)
class Case:
    """One line of a table: a method in a runtime at a precision; `times` of its runs cost what the point's images do.

    `macs` are the multiply-adds of an image, of what is multiplied in large pieces; `streamed` the bytes of constants
    that a run reads once, for one product each, and that no cache holds. `alone` are the arguments of
    `bench.harness.peak_memory` that run it in a process of its own.
    """

    method: str
    runtime: str
    precision: str
    run: Callable[[], object]
    macs: float
    streamed: float = 0.0
    times: float = 1.0
    point: Point = BASE
    alone: tuple[str, ...] | None = None


@dataclass
class Taken:
    """What the counted runs of a case took, all images of its point; no joules where they cannot be read."""

    seconds: list[float] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)


def take_turns(cases: Sequence[Case], turns: int, rest: float | None = None) -> list[Taken]:
    """Run all cases in turn, once more than they are counted, after `rest` seconds each, REST if None."""
    taken, meter = [Taken() for _ in cases], EnergyMeter()
    for turn in track(range(turns + 1), "Turns", console=Console(stderr=True), transient=True):
        for case, mine in zip(cases, taken, strict=True):
            time.sleep(REST if rest is None else rest)
            seconds, joules = meter.measure(case.run)
            if turn:  # the first is not counted
                mine.seconds.append(seconds * case.times)
                mine.joules += [] if joules is None else [joules * case.times]
    return taken
