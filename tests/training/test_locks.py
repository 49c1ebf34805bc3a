"""Two runs of training never write to one folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from glance_fast.errors import SaveError
from glance_fast.storage.folder_lock import locked
from glance_fast.training.train import Job, train_model
from tests.helpers.models import tiny_config
from tests.helpers.training import TRAIN


@pytest.mark.parametrize("restart", [False, True])
def test_a_second_run_of_one_model_is_refused(training_images: Path, tmp_path: Path, restart: bool) -> None:
    job = Job(training_images, tmp_path / "model", restart=restart)
    with locked(job.work):
        (job.work / "log.jsonl").write_text("of the first run")
        with pytest.raises(SaveError, match=r"another run is writing to .*model\.training"):
            train_model(job, tiny_config(), TRAIN)
    assert (job.work / "log.jsonl").read_text() == "of the first run"


def test_a_model_that_another_run_writes_to_is_not_replaced(
    training_images: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    job = Job(training_images, Path(shutil.copytree(tiny_folder, tmp_path / "model")), overwrite=True)
    with locked(job.output), pytest.raises(SaveError, match=r"another run is writing to .*model;"):
        train_model(job, tiny_config(), TRAIN)
    assert {path.name for path in tmp_path.iterdir()} == {"model"}
    assert not {path.name for path in job.output.iterdir()} - {path.name for path in tiny_folder.iterdir()}
