"""Timing a model: all backends that can run it, only when they agree, and the rows that are kept."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from glance_fast.backends import registry
from glance_fast.backends.openvino_backend import multiplies_bfloat16
from glance_fast.backends.tolerances import tolerance
from glance_fast.cli import app
from glance_fast.commands import benchmark as timing
from glance_fast.commands.energy import EnergyMeter
from glance_fast.errors import BackendError
from glance_fast.export.export import export
from tests.helpers.images import textured_image
from tests.helpers.models import save_tiny, tiny_model

EVERY = [("torch", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"), ("onnxruntime", "fp32")]
if not multiplies_bfloat16():
    EVERY.remove(("openvino", "bf16"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = save_tiny(tmp_path_factory.mktemp("timed") / "model", tiny_model())
    for to, precision in (("onnx", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")):
        export(path, to, precision)
    return path


def test_every_backend_is_timed_on_every_image(folder: Path) -> None:
    rows = timing.time_backends(folder, [textured_image(48, 56), textured_image(60, 70)], turns=3, progress=False)
    assert [(row.backend, row.precision) for row in rows] == EVERY
    for row in rows:
        assert row.images == 6 and 0 < row.p50 <= row.p95 <= row.p99 and row.load_seconds > 0
        assert row.images_per_second == pytest.approx(1e3 / row.p50, rel=5)
        assert row.difference <= row.within == tolerance("trained map", row.precision)
        assert row.memory is None or 3e7 < row.memory < 3e9
    assert rows[0].difference == 0
    if sys.platform == "linux":  # the exported forms need no PyTorch
        memories = [row.memory or 0 for row in rows]
        assert memories[0] > max(memories[1:]) > 0


def test_energy_is_the_mean_of_what_each_image_took(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Meter(EnergyMeter):
        def read(self) -> dict[Path, int]:
            return {}

        def since(self, start: dict[Path, int] | None) -> float:
            return 2.5

    monkeypatch.setattr(timing, "_peak_memory", lambda folder, key: None)
    monkeypatch.setattr(timing, "EnergyMeter", Meter)
    rows = timing.time_backends(folder, [], turns=2, progress=False)
    assert {row.joules for row in rows} == {2.5} and {row.memory for row in rows} == {None}


def test_nothing_is_timed_when_maps_differ(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "tolerance", lambda *_: 1e-9)  # no result is within it; the self-check has its own
    with pytest.raises(BackendError, match="openvino at fp32 gives maps that differ .* nothing was timed"):
        timing.time_backends(folder, [], turns=1, progress=False)


def test_a_model_that_nothing_can_run_says_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (timing, registry):
        monkeypatch.setattr(module, "installed", lambda name: False)
    with pytest.raises(BackendError, match="glance-fast export"):
        timing.time_backends(folder, [], turns=1, progress=False)


def test_the_command_prints_a_table_and_adds_lines(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "kept" / "times.jsonl"
    for _ in range(2):
        done = CliRunner().invoke(app, ["bench", "--model", str(folder), "--turns", "1", "--output", str(output)])
        assert done.exit_code == 0, done.output
    assert "Engine.score" in done.output and "onnxruntime" in done.output and "within" in done.output
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(rows) == 2 * len(EVERY) and {row["model"] for row in rows} == {"model"}
    assert np.isfinite([row["p50"] for row in rows]).all() and all(row["cores"] and row["date"] for row in rows)
