"""Runs that are killed or stopped at any moment go on to the same weights; the folder of a whole run."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glance_fast.config import ModelConfig
from glance_fast.engine import Engine
from glance_fast.errors import TrainingError
from glance_fast.models.model import GlanceModel
from glance_fast.storage.model_folder import build_model, read_model
from glance_fast.training import dad_stage, distillation
from glance_fast.training.log import read_rows
from glance_fast.training.train import Job, train_model
from tests.helpers.models import tiny_config
from tests.helpers.training import TRAIN, start_training


@pytest.fixture(scope="module")
def trained(training_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "model"
    train_here(training_images, output)
    return output


def train_here(data: Path, output: Path) -> None:
    """A run in this process, with one thread as in its own: a process takes longer to start than to train here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train_model(Job(data, output), tiny_config(), TRAIN)
    finally:
        torch.set_num_threads(threads)


def done_steps(work: Path) -> int:
    log = work / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


@pytest.mark.parametrize("after", [1, 5, 11])
def test_a_killed_run_resumes_to_the_same_weights(
    training_images: Path, trained: Path, tmp_path: Path, after: int
) -> None:
    output = tmp_path / "model"
    process = start_training(training_images, output)
    while process.poll() is None and done_steps(tmp_path / "model.training") < after:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run ended before it was killed"
    assert not output.exists()
    train_here(training_images, output)
    for name in ("weights.safetensors", "calibration.json", "log.jsonl"):
        assert (output / name).read_bytes() == (trained / name).read_bytes(), name
    assert not (tmp_path / "model.training").exists()


def test_a_finished_run_leaves_only_the_model_folder(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert names == {
        "config.json",
        "weights.safetensors",
        "calibration.json",
        "self_check.safetensors",
        "log.jsonl",
        "curves.png",
    }
    files = read_model(trained)
    assert files.train == TRAIN
    assert "EfficientNet-Lite0" in files.metadata["teacher"]
    rows = read_rows(trained / "log.jsonl")
    assert [row["stage"] for row in rows] == [n for n in ("distil", "fine-tune", "global", "dad") for _ in range(3)]
    assert all(np.isfinite(list(row["losses"].values())).all() for row in rows)


def test_every_stage_changes_its_weights(trained: Path) -> None:
    torch.manual_seed(TRAIN.seed)

    before = GlanceModel(tiny_config()).state_dict()
    after = build_model(read_model(trained)).state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"local_net", "global_net", "distortion"}


PRETRAINED_TRAIN = TRAIN.model_copy(update={"dad_holes_per_axis": 9, "dad_images_per_step": 3, "images_per_step": 4})


def test_a_run_with_the_pretrained_local_net_has_two_stages_and_resumes(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(12):
        pixels = np.random.default_rng(i).integers(60, 190, (90, 101, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{i}.png")
    config = ModelConfig(
        local_net="pretrained", image_size=(150, 150), patch=83, stride=24, border_padding=38, location_whitening=True,
        features=6, context_features=3, global_channels=(4, 4, 4, 4), global_convs=2, dad_width=8,
    )  # fmt: skip
    train_model(Job(photos, tmp_path / "whole"), config, PRETRAINED_TRAIN)
    assert {row["stage"] for row in read_rows(tmp_path / "whole" / "log.jsonl")} == {"global", "dad"}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dad_stage.DadStage, "finalize_statistics", _stop)
        with pytest.raises(KeyboardInterrupt):
            train_model(Job(photos, tmp_path / "halves"), config, PRETRAINED_TRAIN)
    train_model(Job(photos, tmp_path / "halves"), config, PRETRAINED_TRAIN)
    for name in ("weights.safetensors", "calibration.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "halves" / name).read_bytes()
    result = Engine.load(tmp_path / "whole").score(photos / "0.png")
    assert result.map.shape == (90, 101) and np.isfinite(result.map).all()


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def unfinished(training_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that stopped in its second stage."""
    output = tmp_path_factory.mktemp("unfinished") / "model"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(distillation.FineTuningStage, "finish", _stop)
        with pytest.raises(KeyboardInterrupt):
            train_model(Job(training_images, output), tiny_config(), TRAIN)
    return output.with_name("model.training")


# Without its state a run begins anew.
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(("state.safetensors", damage) for damage in ("flipped", "cut")),
        *(("distil.safetensors", damage) for damage in ("flipped", "cut", "missing", "another")),
        *(("log.jsonl", damage) for damage in ("flipped", "cut", "missing", "another")),
    ],
)
def test_a_damaged_file_of_an_unfinished_run_is_named(
    training_images: Path, unfinished: Path, tmp_path: Path, name: str, damage: str
) -> None:
    work = Path(shutil.copytree(unfinished, tmp_path / "model.training"))
    whole = (work / name).read_bytes()
    middle = len(whole) // 2
    if damage == "flipped":
        (work / name).write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    elif damage == "cut":
        (work / name).write_bytes(whole[:middle])
    elif damage == "another":
        shutil.copy(work / "state.safetensors", work / name)
    else:
        (work / name).unlink()
    with pytest.raises(TrainingError, match=rf"{name} (is damaged|cannot be read|is not the log).* or use --restart"):
        train_model(Job(training_images, tmp_path / "model"), tiny_config(), TRAIN)
