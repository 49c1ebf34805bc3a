"""The scaling benchmark: a point is a separate process that reports its time, its memory and its plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import scaling
from bench.harness import scaling_point
from glance_fast.backends.tolerances import TOLERANCES, Tolerance


@pytest.mark.parametrize(("runtime", "batch"), [("PyTorch", 2), ("OpenVINO", 1)])
def test_a_point_reports_time_memory_and_plan(runtime: str, batch: int) -> None:
    point = scaling.BASE | {"side": 96, "batch": batch, "threads": 1}
    row = scaling.measure(runtime, "side", point, runs=1)
    assert row["locations"] == 81 and row["strips"] == 1 and row["side"] == 96 and row["runtime"] == runtime
    # So small a run may stay below what the imports held.
    assert row["ms"] > 0 and row["memory"] >= 0 and row["macs"] > 1e8
    assert row["plan_peak"] == row["whole_peak"] > 1e6
    assert "81" in str(scaling.as_table("t", [row | {"expected_ms": 1.0}]).columns[2]._cells)


def test_a_point_whose_numbers_differ_is_not_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = ("96", "16", "32", "1", "1", "1")
    folder = str(tmp_path / "model")
    scaling_point.main("export", *numbers, folder)
    monkeypatch.setitem(TOLERANCES, ("output", "fp32"), Tolerance(1e-12, "a limit that no result is within"))
    with pytest.raises(SystemExit, match="differs from the loop"):
        scaling_point.main("pytorch", *numbers, str(tmp_path / "other"))
    with pytest.raises(SystemExit, match="differs from the dense pass"):
        scaling_point.main("openvino", *numbers, folder)
    assert capsys.readouterr().out.count("locations") == 1  # export's, which was right


def test_the_pace_is_that_of_the_points_on_as_many_threads() -> None:
    rows = [{"macs": 2e9, "ms": 100.0, "threads": 2}, {"macs": 2e9, "ms": 1.0, "threads": 1}]
    assert scaling.fitted(rows) == 2e10
    for runtime, sweeps in scaling.SWEEPS.items():
        assert len([*scaling.points(runtime)]) == sum(map(len, sweeps.values()))
