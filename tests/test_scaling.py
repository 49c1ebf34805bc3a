"""The scaling benchmark: a point is a process of its own that tells its time, its memory and its plan."""

from __future__ import annotations

from bench import scaling


def test_a_point_tells_time_memory_and_plan() -> None:
    point = scaling.BASE | {"side": 96, "batch": 2, "threads": 1}
    row = scaling.measure("side", point, runs=1)
    assert row["locations"] == 81 and row["strips"] == 1 and row["side"] == 96
    # So small a run may stay below what the imports held.
    assert row["ms"] > 0 and row["memory"] >= 0 and row["macs"] > 1e8
    assert row["plan_peak"] == row["whole_peak"] > 1e6


def test_the_pace_is_that_of_the_points_on_as_many_threads() -> None:
    rows = [{"macs": 2e9, "ms": 100.0, "threads": 2}, {"macs": 2e9, "ms": 1.0, "threads": 1}]
    assert scaling.fitted(rows) == 2e10
    names = [name for name, _ in scaling.points()]
    assert len(names) == sum(map(len, scaling.SWEEPS.values()))
