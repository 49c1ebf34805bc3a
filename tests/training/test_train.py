"""A whole run: data and folders that it refuses, calibration images, two processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from glance_fast.config import ModelConfig
from glance_fast.errors import DataError, ImageError, SaveError, TrainingError
from glance_fast.storage.model_folder import read_model
from glance_fast.training.checkpoint import RunPosition, save_state
from glance_fast.training.log import LogDigest
from glance_fast.training.train import Job, train_model
from tests.helpers.models import tiny_config
from tests.helpers.training import TRAIN, finish_training, start_training


def test_an_unfinished_run_with_other_settings_is_not_resumed(training_images: Path, tmp_path: Path) -> None:
    work = tmp_path / "model.training"
    work.mkdir()
    other = RunPosition(stage=0, step=1, fingerprint="other", log=LogDigest())
    save_state(work / "state.safetensors", other, nn.Linear(1, 1))
    with pytest.raises(TrainingError, match="--restart"):
        train_model(Job(training_images, tmp_path / "model"), tiny_config(), TRAIN)
    train_model(Job(training_images, tmp_path / "model", restart=True), tiny_config(), TRAIN)
    assert read_model(tmp_path / "model").model == tiny_config()


def test_an_unfinished_run_of_version_0_1_0_is_refused(training_images: Path, tmp_path: Path) -> None:
    work = tmp_path / "model.training"
    work.mkdir()
    position = json.dumps({"stage": 0, "step": 1, "fingerprint": "x"})
    save_file({"module.weight": torch.zeros(1)}, work / "state.safetensors", metadata={"place": position})
    with pytest.raises(
        TrainingError, match="of glance_fast 0.1.0, which this version cannot continue; finish it with 0.1.0, or use"
    ):
        train_model(Job(training_images, tmp_path / "model"), tiny_config(), TRAIN)


def test_an_existing_model_is_not_replaced_without_overwrite(training_images: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "precious").write_text("x")
    with pytest.raises(SaveError, match="--overwrite"):
        train_model(Job(training_images, tmp_path / "model"), tiny_config(), TRAIN)
    assert (tmp_path / "model" / "precious").read_text() == "x"


def test_bad_data_fails_before_any_training(training_images: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="false-alarm rate"):
        train_model(
            Job(training_images, tmp_path / "m"), tiny_config(), TRAIN.model_copy(update={"false_alarm_rate": 0.01})
        )
    with pytest.raises(DataError, match="does not exist"):
        train_model(Job(tmp_path / "none", tmp_path / "m"), tiny_config(), TRAIN)
    large = ModelConfig(patch=64)
    with pytest.raises(DataError, match="smaller than one 64x64 patch"):
        train_model(Job(training_images, tmp_path / "m"), large, TRAIN)
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "a.png").write_bytes(b"no image")
    with pytest.raises((ImageError, DataError), match="bad"):
        train_model(Job(bad, tmp_path / "m"), tiny_config(), TRAIN)
    assert not (tmp_path / "m.training").exists()


def test_separate_calibration_images_replace_held_out_images(training_images: Path, tmp_path: Path) -> None:
    job = Job(training_images, tmp_path / "model", calibration_data=training_images)
    assert len(train_model(job, tiny_config(), TRAIN).scores) == 12
    assert read_model(tmp_path / "model").metadata["normal images"] == "12 trained on, 12 held out"


def test_two_processes_share_a_step(training_images: Path, tmp_path: Path) -> None:
    finish_training(start_training(training_images, tmp_path / "model", devices=2), timeout=240)
    assert read_model(tmp_path / "model").train.devices == 2
