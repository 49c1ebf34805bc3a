"""A model folder comes back as it was written; any damage to any file is a ModelFolderError that names it."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from glance_fast.engine import Engine
from glance_fast.errors import ModelFolderError, SaveError
from glance_fast.models.model import GlanceModel
from glance_fast.storage.model_folder import CALIBRATION, CONFIG, WEIGHTS, build_model, read_model
from glance_fast.version import __version__
from tests.helpers.models import METADATA, TRAIN, save_tiny, tiny_calibration, tiny_config, tiny_model

FILES = (CONFIG, WEIGHTS, CALIBRATION)


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def open_model(path: Path) -> GlanceModel:
    return build_model(read_model(path))


def edit_config(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    config = json.loads((path / CONFIG).read_text())
    change(config)
    (path / CONFIG).write_text(json.dumps(config))


def plant(path: Path, name: str, data: bytes) -> None:
    """Put a file in with its right SHA-256, as someone who means harm would."""
    (path / name).write_bytes(data)
    edit_config(path, lambda config: config["sha256"].update({name: hashlib.sha256(data).hexdigest()}))


def test_a_model_is_read_as_it_was_written(tiny_folder: Path) -> None:
    files, model = read_model(tiny_folder), tiny_model()
    assert (files.model, files.train, files.metadata) == (tiny_config(), TRAIN, METADATA)
    assert files.calibration == tiny_calibration() and files.path == tiny_folder
    back = build_model(files)
    assert not back.training and not any(weight.requires_grad for weight in back.parameters())
    state = back.state_dict()
    assert state.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)
    assert sorted(path.name for path in tiny_folder.iterdir()) == sorted(FILES)
    assert json.loads((tiny_folder / CONFIG).read_text())["version"] == __version__


def test_the_same_model_gives_the_same_bytes(tiny_folder: Path, tmp_path: Path) -> None:
    second = save_tiny(tmp_path / "second", tiny_model())
    for name in FILES:
        assert (second / name).read_bytes() == (tiny_folder / name).read_bytes()


def test_the_checked_contents_cannot_be_changed(tiny_folder: Path) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        read_model(tiny_folder).digest = ""  # type: ignore[misc]


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_at_any_length_is_found_and_named(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for length in sorted({0, 1, 7, 8, 9, len(whole) - 1, *range(0, len(whole), max(1, len(whole) // 150))}):
        (folder / name).write_bytes(whole[:length])
        with pytest.raises(ModelFolderError, match=name):
            open_model(folder)


@pytest.mark.parametrize("name", [WEIGHTS, CALIBRATION])
def test_a_flipped_bit_is_found_and_named(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for offset in range(0, len(whole), max(1, len(whole) // 40)):
        (folder / name).write_bytes(whole[:offset] + bytes([whole[offset] ^ 16]) + whole[offset + 1 :])
        with pytest.raises(ModelFolderError, match=f"{name} is not the file that this model was saved with"):
            open_model(folder)


def test_a_flipped_bit_of_the_configuration_never_gives_another_error(folder: Path) -> None:
    whole = (folder / CONFIG).read_bytes()
    refused = 0
    for offset in range(0, len(whole), 11):
        (folder / CONFIG).write_bytes(whole[:offset] + bytes([whole[offset] ^ 16]) + whole[offset + 1 :])
        try:
            Engine.load(folder)
        except ModelFolderError:
            refused += 1
    # The rest fall in texts for people and in numbers that are as legal as before.
    assert refused > len(whole) / 11 * 0.5


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_and_a_folder_in_its_place_are_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelFolderError, match=name):
        open_model(folder)
    (folder / name).mkdir()
    with pytest.raises(ModelFolderError, match=name):
        open_model(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xfe\x00", b"null", b"[]", b"{}", b"[" * 100_000, b"9" * 5000],
    ids=lambda data: f"{data[:4]!r} {len(data)}",
)
def test_a_foreign_file_is_named(folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)
    with pytest.raises(ModelFolderError, match=name):
        open_model(folder)
    if name != CONFIG:
        plant(folder, name, data)
        with pytest.raises(ModelFolderError, match=name):
            open_model(folder)


def test_files_of_another_model_are_named(folder: Path, tmp_path: Path) -> None:
    other = save_tiny(tmp_path / "other", tiny_model(seed=1))
    shutil.copy(other / WEIGHTS, folder / WEIGHTS)
    with pytest.raises(ModelFolderError, match=WEIGHTS):
        open_model(folder)


def as_state(change: Callable[[dict[str, torch.Tensor]], Any]) -> bytes:
    state = dict(tiny_model().state_dict())
    change(state)
    return save(state)


BAD_STATES: dict[str, Callable[[], bytes]] = {
    "a tensor less": lambda: as_state(lambda state: state.popitem()),
    "a tensor more": lambda: as_state(lambda state: state.update(extra=torch.zeros(1))),
    "other shapes": lambda: save(dict(tiny_model(features=9).state_dict())),
    "no tensors": lambda: save({}),
    "header beyond the end": lambda: (2**40).to_bytes(8, "little") + b"{}",
    "negative offsets": lambda: header({"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}),
    "unknown type": lambda: header({"x": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}),
    "odd type": lambda: header({"x": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [0, 4]}}),
    "a pickle": lambda: b"\x80\x04cos\nsystem\n(S'true'\ntR.",
}


def header(tensors: dict[str, Any]) -> bytes:
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text + bytes(4)


@pytest.mark.parametrize("kind", BAD_STATES)
def test_weights_that_do_not_fit_are_named(folder: Path, kind: str) -> None:
    plant(folder, WEIGHTS, BAD_STATES[kind]())
    with pytest.raises(ModelFolderError, match=WEIGHTS):
        open_model(folder)


def test_half_precision_weights_are_read_as_float32(folder: Path) -> None:
    state = {name: tensor.half() for name, tensor in load((folder / WEIGHTS).read_bytes()).items()}
    plant(folder, WEIGHTS, save(state))
    assert {weight.dtype for weight in open_model(folder).parameters()} == {torch.float32}


BAD_CONFIGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "unknown setting 'colour'": lambda c: c["model"].update(colour="red"),
    "unknown setting 'speed'": lambda c: c["train"].update(speed=9),
    "patch = 4": lambda c: c["model"].update(patch=4),
    "patch = 'wide'": lambda c: c["model"].update(patch="wide"),
    "iad_weight": lambda c: c["model"].update(iad_weight=float("nan")),
    "stride = 0": lambda c: c["model"].update(stride=0),
    "smaller than one 512x512 patch": lambda c: c["model"].update(patch=512),
    "teacher": lambda c: c["model"].update(teacher="oracle"),
    "image_size": lambda c: c["model"].update(image_size=[48]),
    "beyond 16384": lambda c: c["model"].update(image_size=[48, 10**9]),
    "global_channels": lambda c: c["model"].update(global_channels=[6, 0]),
    "does not fit": lambda c: c["model"].update(features=9),
    "seed": lambda c: c["train"].update(seed=-1),
    "lacks one of": lambda c: c.pop("model"),
    "lacks one of model": lambda c: c.update(sha256=[]),
    "lacks one of model, train, facts": lambda c: c.update(facts=None),
    "wrong SHA-256": lambda c: c["sha256"].clear(),
    "format 3": lambda c: c.update(format=3),
    "which reads formats 1 and 2: install the matching version": lambda c: c.update(format="1"),
    "is not a glance_fast configuration": lambda c: c.pop("format"),
    "weights.safetensors does not fit": lambda c: c["model"].update(local_channels=[7]),
}


@pytest.mark.parametrize("message", BAD_CONFIGS)
def test_a_configuration_of_another_kind_is_refused(folder: Path, message: str) -> None:
    edit_config(folder, BAD_CONFIGS[message])
    with pytest.raises(ModelFolderError, match=message) as caught:
        Engine.load(folder)
    assert str(folder) in str(caught.value)


def test_networks_that_see_nothing_round_the_hole_are_refused(tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "blind", tiny_model(global_channels=(6,)))
    with pytest.raises(ModelFolderError, match=r"config.json, model: .* use more global_channels levels"):
        Engine.load(path)


@pytest.mark.parametrize(
    "change", [{"scores": []}, {"scores": [2.0, 1.0]}, {"threshold": "high"}, {"colour": "red"}], ids=str
)
def test_a_calibration_of_another_kind_is_named(folder: Path, change: dict[str, Any]) -> None:
    values = {**json.loads((folder / CALIBRATION).read_text()), **change}
    plant(folder, CALIBRATION, json.dumps(values).encode())
    with pytest.raises(ModelFolderError, match=CALIBRATION) as caught:
        open_model(folder)
    assert next(iter(change)) in str(caught.value)


def test_a_folder_without_a_model_says_how_to_train_one(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with pytest.raises(ModelFolderError, match="model is no model folder; make one with 'glance-fast train"):
        read_model(path)
    (tmp_path / "model.training").mkdir()
    with pytest.raises(ModelFolderError, match="model.training holds an unfinished run"):
        read_model(path)
    path.write_text("a file")
    with pytest.raises(ModelFolderError, match="model is no model folder"):
        read_model(path)
    with pytest.raises(ModelFolderError, match="is no model folder"):
        read_model(Path("nul\0byte"))


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_full_disk_leaves_the_old_model(folder: Path, monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    before = {name: (folder / name).read_bytes() for name in FILES}
    done: list[Path] = []
    opened = Path.open

    def full(path: Path, mode: str = "r", *args: Any, **more: Any) -> Any:
        if "w" in mode and len(done) == writes:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        done.extend([path] if "w" in mode else [])
        return opened(path, mode, *args, **more)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(SaveError, match="No space left") as caught:
        save_tiny(folder, tiny_model(seed=1))
    monkeypatch.undo()
    assert str(folder) in str(caught.value) and len(done) == writes
    assert {name: (folder / name).read_bytes() for name in FILES} == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
