"""The meter of energy, on invented counters."""

from __future__ import annotations

from pathlib import Path

import pytest

from glance_fast.commands.energy import EnergyMeter


def zone(powercap: Path, folder: str, name: str, microjoules: str, largest: int = 999) -> Path:
    """Write a counter as Linux does; returns its file of microjoules."""
    counter = powercap / folder
    counter.mkdir(parents=True)
    for file, text in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", str(largest))):
        (counter / file).write_text(f"{text}\n")
    return counter / "energy_uj"


def test_energy_is_that_of_all_packages_and_of_no_part_of_one(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "intel-rapl:0", "package-0", "100"), zone(tmp_path, "intel-rapl:1", "package-1", "5")
    part = zone(tmp_path, "intel-rapl:0:0", "core", "1")
    meter = EnergyMeter(tmp_path)
    start = meter.read()
    first.write_text("350\n")
    second.write_text("5\n")
    part.write_text("900\n")
    assert meter.since(start) == pytest.approx(250e-6)


def test_a_counter_that_overflows_is_corrected(tmp_path: Path) -> None:
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


def test_a_run_is_measured_in_seconds_and_joules(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", "100")
    cost = EnergyMeter(tmp_path).measure(lambda: counter.write_text("350"))
    assert cost.seconds > 0 and cost.joules == pytest.approx(250e-6)
    assert EnergyMeter(tmp_path / "none").measure(lambda: None).joules is None
