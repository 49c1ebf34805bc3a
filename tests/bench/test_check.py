"""The gate against losses: counts must be the committed ones, and a ratio may lose its noise and no more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from rich.console import Console

from bench import check
from tests.helpers.compilers import KERNELS


def test_the_committed_counts_are_this_codes() -> None:
    expected = json.loads(check.EXPECTED.read_text())
    exact = {name: count for name, count in expected["exact"].items() if "kernel" not in name}
    assert check.changed(check.counts(), exact) == []
    counted = {name.split()[0] for name in expected["exact"] if "kernel" in name}
    assert counted == {kernel for kernels in KERNELS.values() for kernel in kernels}
    for flags, of_cpu in expected["cpus"].items():
        assert of_cpu["machine"]["flags"] == flags
        ratios = {name: slow for name, slow in check.RATIOS.items() if "avx512_bf16" in flags or "bf16" not in name}
        assert set(of_cpu["ratios"]) == set(ratios)
        assert all(0.1 <= row["noise"] < 0.5 for row in of_cpu["ratios"].values())
        # Everything that is compared is slower than ours.
        assert all(row["ratio"] > 1 for row in of_cpu["ratios"].values())


def test_a_loss_beyond_the_noise_and_another_count_are_reported() -> None:
    expected = {"a": {"ratio": 10.0, "noise": 0.2}, "b": {"ratio": 2.0, "noise": 0.1}}
    quiet = Console(quiet=True)
    assert check.slower({"a": 8.1, "b": 5.0}, expected, quiet) == []
    assert check.slower({"a": 7.9, "b": 2.0}, expected, quiet) == ["a: 7.90, which is 21% less than 10.00"]
    assert "nothing to compare with" in check.slower({"c": 1.0}, expected, quiet)[0]
    assert check.changed({"x": 1, "y": 2}, {"x": 1, "y": 2}) == []
    assert [line.split(":")[0] for line in check.changed({"x": 1, "y": 2}, {"x": 2, "z": 3})] == ["x", "y", "z"]


@pytest.fixture
def one_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of expectations of its own, and one count in place of the measured ones."""
    monkeypatch.setattr(check, "EXPECTED", tmp_path / "expected.json")
    monkeypatch.setattr(check, "counts", lambda: {"multiply-adds": 5})
    monkeypatch.setattr(check, "resources", dict)


@pytest.mark.usefixtures("one_count")
def test_the_command_fails_on_a_loss_and_update_makes_it_pass(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pace = [10.0]
    monkeypatch.setattr(check, "ratios", lambda turns: dict.fromkeys(check.RATIOS, pace[0]))
    check.main(update=True)
    check.main()
    pace[0] = 8.0
    with pytest.raises(typer.Exit):
        check.main()
    assert "which is 20% less than 10.00" in capsys.readouterr().out


@pytest.mark.usefixtures("one_count")
def test_each_cpu_has_expectations_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "ratios", lambda turns: {"a": 10.0})
    monkeypatch.setattr(check, "environment", lambda: {"flags": "avx2"})
    check.main(update=True)
    monkeypatch.setattr(check, "environment", lambda: {"flags": "asimd"})
    check.main()
    assert "NO TIMES WERE COMPARED" in capsys.readouterr().out
    monkeypatch.setattr(check, "ratios", lambda turns: {"a": 2.0})
    check.main(update=True)
    check.main()
    assert "nothing is slower" in capsys.readouterr().out
    of_cpus = json.loads(check.EXPECTED.read_text())["cpus"]
    assert {flags: of_cpu["ratios"]["a"]["ratio"] for flags, of_cpu in of_cpus.items()} == {"avx2": 10.0, "asimd": 2.0}
