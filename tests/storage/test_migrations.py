"""Model folders of format 1 are read as format 2; the files on disk stay as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from glance_fast.config import ModelConfig, TrainConfig
from glance_fast.engine import Engine
from glance_fast.errors import ConfigError, ModelFolderError
from glance_fast.models.model import GlanceModel
from glance_fast.presets import PRESETS
from glance_fast.storage.migrations import FORMER_TENSORS, MODEL_FOLDER_FORMAT, upgrade_settings, upgrade_weights
from glance_fast.storage.model_folder import CALIBRATION, CONFIG, WEIGHTS
from tests.helpers.models import save_tiny, tiny_model


def as_format_1(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json of today in the names of format 1, which has hashes of weights and calibration alone."""
    hashes = {name: config["sha256"][name] for name in (WEIGHTS, CALIBRATION)} if "sha256" in config else {}
    old = {**config, "format": 1, "sha256": hashes}
    for table, kind in (("model", ModelConfig), ("train", TrainConfig)):
        names = {new: name for name, new in kind.former_names.items()}
        old[table] = {names.get(name, name): value for name, value in config[table].items()}
    values = {new: value for value, new in ModelConfig.former_values["local_net"].items()}
    old["model"]["local_net"] = values[config["model"]["local_net"]]
    return old


@pytest.mark.parametrize("preset", PRESETS)
def test_settings_of_format_1_become_those_of_format_2(preset: str) -> None:
    model, train = (
        kind.model_validate(PRESETS[preset][table]).model_dump(mode="json")
        for table, kind in (("model", ModelConfig), ("train", TrainConfig))
    )
    old = as_format_1({"model": model, "train": train})
    assert upgrade_settings(ModelConfig, old["model"], 1, "config.json") == model
    assert upgrade_settings(TrainConfig, old["train"], 1, "config.json") == train
    assert upgrade_settings(ModelConfig, model, 2, "config.json") == model


def test_a_folder_of_format_1_is_read_and_stays_as_it_is(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", tiny_model(iad_weight=0.25))
    config = json.loads((folder / CONFIG).read_text())
    old = json.dumps(as_format_1(config))
    (folder / CONFIG).write_text(old)
    assert Engine.load(folder).files.model.iad_weight == 0.25
    assert (folder / CONFIG).read_text() == old


@pytest.mark.parametrize("name", ["colour", "context_features"])
def test_a_name_that_format_1_does_not_have_is_refused(name: str, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", tiny_model())
    config = as_format_1(json.loads((folder / CONFIG).read_text()))
    config["model"][name] = 1
    with pytest.raises(ConfigError, match=f"^here, model: unknown setting '{name}'; legal settings of format 1 are "):
        upgrade_settings(ModelConfig, config["model"], 1, "here, model")
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ModelFolderError, match=f"unknown setting '{name}'.* install the version that wrote it"):
        Engine.load(folder)


@pytest.mark.parametrize("preset", PRESETS)
def test_tensors_of_format_1_become_those_of_format_2(preset: str) -> None:
    names = list(GlanceModel(ModelConfig.model_validate(PRESETS[preset]["model"])).state_dict())
    old = [as_former_tensor(name) for name in names]
    assert (old != names) == (preset != "paper")
    weights = {name: torch.tensor(i) for i, name in enumerate(old)}
    assert [int(tensor) for tensor in upgrade_weights(weights, 1).values()] == list(range(len(names)))
    assert list(upgrade_weights(weights, 1)) == names
    assert upgrade_weights(weights, MODEL_FOLDER_FORMAT) is weights


def as_former_tensor(name: str) -> str:
    """The name that format 1 had for a tensor of format 2."""
    for former, current in FORMER_TENSORS.items():
        if name == current or (current.endswith(".") and name.startswith(current)):
            return former + name.removeprefix(current)
    return name
