"""Meters of energy and memory, on counters made up and on this machine's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from glance_fast.commands import energy as meters
from glance_fast.commands.energy import EnergyMeter, held_by, most_held


def zone(place: Path, folder: str, name: str, microjoules: str, most: int = 999) -> Path:
    made = place / folder
    made.mkdir(parents=True)
    for file, text in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", str(most))):
        (made / file).write_text(f"{text}\n")
    return made / "energy_uj"


def test_energy_is_that_of_all_packages_and_of_no_part_of_one(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "intel-rapl:0", "package-0", "100"), zone(tmp_path, "intel-rapl:1", "package-1", "5")
    part = zone(tmp_path, "intel-rapl:0:0", "core", "1")
    meter = EnergyMeter(tmp_path)
    start = meter.read()
    first.write_text("350\n")
    second.write_text("5\n")
    part.write_text("900\n")
    assert meter.since(start) == pytest.approx(250e-6)


def test_a_counter_that_came_round_goes_on(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", "990")
    meter = EnergyMeter(tmp_path)
    start = meter.read()
    counter.write_text("10\n")
    assert meter.since(start) == pytest.approx(20e-6)


@pytest.mark.parametrize("broken", ["", "-1", "many"])
def test_no_energy_without_readable_counters(tmp_path: Path, broken: str) -> None:
    assert EnergyMeter(tmp_path / "none").read() is None
    zone(tmp_path, "intel-rapl:0", "package-0", "5")
    counter = zone(tmp_path, "intel-rapl:1", "package-1", "5")
    meter = EnergyMeter(tmp_path)
    start = meter.read()
    counter.write_text(broken)
    assert start is not None and meter.since(start) is None
    assert EnergyMeter(tmp_path).read() is None


def test_the_most_memory_is_the_process_own_and_stays() -> None:
    code = (
        "from glance_fast.commands.energy import most_held; before = most_held(); held = bytearray(200_000_000); "
        "high = most_held(); del held; print(before, high, most_held())"
    )
    larger = np.ones(100_000_000, np.float32)  # what a parent holds is not the child's
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, high, after = map(int, done.stdout.split())
    assert larger[0] == 1 and 190_000_000 < high - before < 260_000_000 and after > 0.99 * high and before < 200_000_000


def test_another_process_tells_what_it_held_or_fails() -> None:
    python = (sys.executable, "-c")
    assert held_by([*python, "print('loading', 12345)"]) == 12345
    assert held_by([*python, "print(None)"]) is None
    with pytest.raises(subprocess.CalledProcessError) as caught:
        held_by([*python, "raise SystemExit('no such model')"])
    assert "no such model" in caught.value.stderr


def test_a_run_is_measured_in_seconds_and_joules(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", "100")
    seconds, joules = EnergyMeter(tmp_path).measure(lambda: counter.write_text("350"))
    assert seconds > 0 and joules == pytest.approx(250e-6)
    assert EnergyMeter(tmp_path / "none").measure(lambda: None)[1] is None


def test_memory_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(meters, "STATUS", tmp_path / "none")
    held = most_held()
    assert held is None or held > 10_000_000
