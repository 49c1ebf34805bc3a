"""Tuning the kernels, in the interpreter: what a clock prefers is put into the table, and used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import gpu, tune
from glance_fast.backends.tolerances import relative_error, tolerance
from glance_fast.dense.triton_pipeline import TritonPipeline
from glance_fast.errors import ConfigError
from glance_fast.kernels.gpu import configurations
from glance_fast.kernels.gpu.configurations import tuned_options
from glance_fast.kernels.gpu.tables import ENTRY_TILE
from glance_fast.models.model import GlanceModel
from tests.helpers.images import model_images
from tests.helpers.models import fitted_model
from tests.helpers.reference import loop_grids
from tests.helpers.tolerances import assert_close

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CHOICES: dict[str, dict[str, tuple[int, ...]]] = {
    "base_kernel": {"BLOCK_M": (32,), "BLOCK_N": (32, 16)},
    "entries_kernel": {"BLOCK_M": (32,), "BLOCK_K": (32,)},
    "pool_kernel": {"BLOCK_M": (128,)},
    "pooled_entries_kernel": {"BLOCK_M": (16,), "BLOCK_N": (16,)},
    "score_kernel": {"BLOCK_K": (32,)},
}


@pytest.fixture(scope="module")
def model() -> GlanceModel:
    return fitted_model({"image_size": (17, 19), "patch": 9, "stride": 7, "global_channels": (5, 6, 7)})


def clock() -> Callable[[Callable[[], object]], float]:
    """Each thing that is timed takes half as long as the one before it."""
    left = 1.0

    def timed(run: Callable[[], object]) -> float:
        nonlocal left
        run()
        left /= 2
        return left

    return timed


def test_what_is_faster_is_put_into_the_table_and_used(
    model: GlanceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "CHOICES", CHOICES)
    rows = tune.tune(tune.tune_jobs(model, 1, torch.float32, DEVICE), clock())
    assert {row["kernel"] for row in rows} == set(CHOICES)
    assert all(row["gain"] >= 2 for row in rows)
    table = tmp_path / "configurations.json"
    tune.merge(table, rows)
    tune.merge(table, rows[:1])
    assert len(json.loads(table.read_text())) == len(rows)
    tuned = configurations.parse(table.read_text())
    monkeypatch.setattr(configurations, "_table", lambda: tuned)
    pipeline = TritonPipeline(model, DEVICE)
    assert [entry_table.tile_size for entry_table in pipeline._dense.tables] == [64, 128, 16, 16, 32]
    assert all(tuned_options(key) for key in tuned)
    images = model_images(model, 2)
    scores = pipeline(torch.from_numpy(images).to(DEVICE)).cpu()
    assert_close(scores, torch.from_numpy(loop_grids(model, images)), torch.float32)


def test_what_is_no_faster_or_wrong_is_left_out(model: GlanceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "CHOICES", CHOICES)
    job = next(job for job in tune.tune_jobs(model, 1, torch.float32, DEVICE) if job.key.kernel == "entries_kernel")
    assert tune.tuned(job, lambda run: 1.0) == []
    wrong = tune.TuneJob(job.key, lambda tile_size: job.run(tile_size) * (1 if tile_size == ENTRY_TILE else 1.0001))
    assert tune.tuned(wrong, clock()) == []


def test_the_gpu_benchmark_times_every_kernel_and_pooling_both_ways(model: GlanceModel) -> None:
    launches = gpu.launches("tiny", model, 1)
    pooled_launches = [name for name in launches if "pooled_entries_kernel" in name]
    assert [name.rpartition(", ")[2] for name in pooled_launches] == ["in two launches", "in one"]
    assert {name.split()[1] for name in launches} == set(tune.CHOICES)
    assert all(case.costs for name, case in launches.items() if name not in pooled_launches)
    results = {name: case.run() for name, case in launches.items()}
    two_launches, one_launch = (results[name] for name in pooled_launches)
    assert isinstance(one_launch, torch.Tensor) and isinstance(two_launches, torch.Tensor)
    assert relative_error(one_launch.cpu(), two_launches.cpu()) < tolerance("output", "fp16")


def test_every_choice_may_stand_in_the_table() -> None:
    for kernel in tune.CHOICES:
        row: dict[str, Any] = {"device": "GPU", "kernel": kernel, "channels": [8, 16], "dtype": "float16"}
        rows = [{**row, "options": options} for options in tune.candidates(kernel)]
        assert len(configurations.parse(json.dumps(rows))) == 1


@pytest.mark.parametrize("options", [{"BLOCK_M": 48}, {"num_warps": "8"}, {"lam": 1}, {"BLOCK_M": True}], ids=str)
def test_a_table_with_other_options_is_refused(options: dict[str, Any]) -> None:
    row = {"device": "GPU", "kernel": "base_kernel", "channels": [8, 16], "dtype": "float16", "options": options}
    with pytest.raises(ConfigError, match="a configuration may have"):
        configurations.parse(json.dumps([row]))


def test_the_table_that_ships_can_be_read() -> None:
    configurations.parse(configurations.FILE.read_text())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_tuned(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="needs a CUDA device"):
        tune.main(tmp_path / "table.json", "fast", 1, "fp16")
