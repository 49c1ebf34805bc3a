"""Energy of the processors, as the operating system counts it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class RunCost:
    """Seconds and joules of one run; no joules without energy counters."""

    seconds: float
    joules: float | None


class EnergyMeter:
    """Joules that all processor packages use, from Linux's powercap counters (RAPL) in the folder `powercap`.

    The energy of other processes is included. Without counters, or where only root may read them, `read` and `since`
    return None.
    """

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._ranges = {zone: size for zone in _packages(powercap) if (size := _number(zone / "max_energy_range_uj"))}
        if any(_number(zone / "energy_uj") is None for zone in self._ranges):
            self._ranges = {}

    def read(self) -> dict[Path, int] | None:
        """Microjoules counted per package; a counter restarts at 0 when it exceeds its range."""
        readings = {zone: _number(zone / "energy_uj") for zone in self._ranges}
        counted = {zone: value for zone, value in readings.items() if value is not None}
        return counted if counted and len(counted) == len(self._ranges) else None

    def since(self, start: dict[Path, int] | None) -> float | None:
        """Joules since `start`, a result of `read`; right as long as no counter has passed its whole range since."""
        now = self.read()
        if start is None or now is None:
            return None
        return sum((now[zone] - start[zone]) % (self._ranges[zone] + 1) for zone in now) / 1e6

    def measure(self, run: Callable[[], object]) -> RunCost:
        """Run once, and measure it."""
        energy, start = self.read(), time.perf_counter()
        run()
        seconds = time.perf_counter() - start
        return RunCost(seconds, self.since(energy))


def _packages(powercap: Path) -> list[Path]:
    """The zones of whole packages; their parts, cores and memory, would be counted twice."""
    zones = sorted(powercap.glob("*/name"))
    return [name.parent for name in zones if _text(name).startswith("package")]


def _number(file: Path) -> int | None:
    text = _text(file)
    return int(text) if text.isdigit() else None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
