"""Meters that the operating system keeps: the processors' energy, and the most memory that this process has held."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
STATUS = Path("/proc/self/status")


class EnergyMeter:
    """Joules that the processors' packages take together, by Linux's powercap counters (RAPL).

    Whatever runs beside is in them too. `place` is the folder of the counters. Where there are none, or only root may
    read them, `read` and `since` give None.
    """

    def __init__(self, place: Path = POWERCAP) -> None:
        self._ranges = {zone: size for zone in _packages(place) if (size := _number(zone / "max_energy_range_uj"))}
        if any(_number(zone / "energy_uj") is None for zone in self._ranges):
            self._ranges = {}

    def read(self) -> dict[Path, int] | None:
        """Microjoules of each package so far; the counters begin anew now and then."""
        found = {zone: _number(zone / "energy_uj") for zone in self._ranges}
        known = {zone: value for zone, value in found.items() if value is not None}
        return known if known and len(known) == len(self._ranges) else None

    def since(self, start: dict[Path, int] | None) -> float | None:
        """Joules since `start`, what `read` gave, not longer ago than a counter takes to come round."""
        now = self.read()
        if start is None or now is None:
            return None
        return sum((now[zone] - start[zone]) % (self._ranges[zone] + 1) for zone in now) / 1e6

    def measure(self, run: Callable[[], object]) -> tuple[float, float | None]:
        """Seconds and joules of one run."""
        energy, start = self.read(), time.perf_counter()
        run()
        seconds = time.perf_counter() - start
        return seconds, self.since(energy)


def held_by(command: Sequence[str], folder: Path | None = None) -> int | None:
    """What a process with this command, run in `folder`, says of `most_held` in the last word that it prints.

    Raises subprocess.CalledProcessError where it fails.
    """
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    told = done.stdout.split()[-1]
    return int(told) if told.isdigit() else None


def most_held() -> int | None:
    """The most bytes of memory that this process has held at once; None where the system does not tell."""
    try:
        # Linux's `ru_maxrss` begins at what the parent held.
        lines = STATUS.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _packages(place: Path) -> list[Path]:
    """The zones of whole packages; their parts, cores and memory, would be counted twice."""
    zones = sorted(place.glob("*/name"))
    return [name.parent for name in zones if _text(name).startswith("package")]


def _number(file: Path) -> int | None:
    text = _text(file)
    return int(text) if text.isdigit() else None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
