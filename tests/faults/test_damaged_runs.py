"""A damaged file of an unfinished run is refused, or the run goes on to the same bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from glance_fast.storage.checked_files import sha256
from glance_fast.training import dad_stage
from glance_fast.training.checkpoint import DIGEST, POSITION, _digest as checkpoint_digest, read_state
from glance_fast.training.train import Job, train_model
from tests.helpers.damage import DAMAGES
from tests.helpers.images import save_images
from tests.helpers.judge import REFUSED, SCORED, Judge
from tests.helpers.models import tiny_config
from tests.helpers.rounds import ROUNDS
from tests.helpers.training import TRAIN

FILES = ("state.safetensors", "distil.safetensors", "fine-tune.safetensors", "global.safetensors", "log.jsonl")


def finish_run(photos: Path, output: Path) -> str:
    """Train on, or from the start; the hashes of what becomes of it."""
    train_model(Job(photos, output), tiny_config(), TRAIN)
    return " ".join(sha256((output / name).read_bytes()) for name in ("weights.safetensors", "log.jsonl"))


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(finish_run, limit=20) as judge:
        yield judge


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs and a run that was stopped after its last step."""
    folder = tmp_path_factory.mktemp("unfinished")
    save_images(folder / "photos", 12, (61, 70))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dad_stage.DadStage, "finish", _stop)
        with pytest.raises(KeyboardInterrupt):
            train_model(Job(folder / "photos", folder / "model"), tiny_config(), TRAIN)
    assert {path.name for path in (folder / "model.training").iterdir()} == set(FILES)
    return folder


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def right(unfinished: Path, judge: Judge, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What becomes of the run where nothing is damaged."""
    copy = shutil.copytree(unfinished, tmp_path_factory.mktemp("whole") / "run")
    outcome = judge(copy / "photos", copy / "model")
    assert outcome.kind == SCORED, outcome
    return outcome.text


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_unfinished_run_is_refused_or_comes_to_the_same_model(
    unfinished: Path, judge: Judge, right: str, tmp_path: Path, name: str
) -> None:
    data = (unfinished / "model.training" / name).read_bytes()
    for kind, damage in DAMAGES.items():
        for number in range(ROUNDS):
            copy = shutil.copytree(unfinished, tmp_path / f"{kind}-{number}")
            rng = np.random.default_rng([number, *f"{kind} {name}".encode()])
            (copy / "model.training" / name).write_bytes(damage(data, rng))
            outcome = judge(copy / "photos", copy / "model")
            legal = outcome.kind == REFUSED or (outcome.kind == SCORED and outcome.text == right)
            assert legal, f"{name}: {kind}, round {number}: {outcome.kind}: {outcome.text}"


def _first(tensors: dict[str, Tensor], change: Callable[[Tensor], Tensor]) -> None:
    name = min(tensors)
    tensors[name] = change(tensors[name])


# Changes of a checkpoint's position and tensors.
CHANGES: dict[str, Callable[[dict[str, Any], dict[str, Tensor]], object]] = {
    "another stage": lambda position, _: position.update(stage=0),
    "a stage beyond the end": lambda position, _: position.update(stage=2**40),
    "a step beyond the end": lambda position, _: position.update(step=2**40),
    "a log of another length": lambda position, _: position["log"].update(size=2**40),
    "a position that is text": lambda position, _: position.update(step="3"),
    "values that are not finite": lambda _, tensors: _first(tensors, lambda tensor: tensor * float("nan")),
    "whole numbers": lambda _, tensors: _first(tensors, lambda tensor: tensor.to(torch.int64)),
    "another shape": lambda _, tensors: _first(tensors, lambda tensor: tensor.reshape(1, 1, -1)),
    "a tensor less": lambda _, tensors: tensors.pop(min(tensors)),
    "a tensor more": lambda _, tensors: tensors.update({"module.other": torch.zeros(3)}),
}


@pytest.mark.parametrize("name", ["state.safetensors", "global.safetensors"])
def test_a_changed_checkpoint_with_the_right_hash_ends_no_process(
    unfinished: Path, judge: Judge, tmp_path: Path, name: str
) -> None:
    for change, apply in CHANGES.items():
        copy = shutil.copytree(unfinished, tmp_path / change.replace(" ", "-"))
        path = copy / "model.training" / name
        checkpoint = read_state(path, 2**30)
        position, tensors = checkpoint.position.model_dump(), dict(checkpoint.tensors)
        apply(position, tensors)
        text = json.dumps(position)
        path.write_bytes(save(tensors, metadata={POSITION: text, DIGEST: checkpoint_digest(text, tensors)}))
        outcome = judge(copy / "photos", copy / "model")
        assert outcome.kind in (REFUSED, SCORED), f"{name}: {change}: {outcome.kind}: {outcome.text}"
