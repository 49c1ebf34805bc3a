"""A model folder comes back as it was written; any damage to any file is a ModelFolderError that names it."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save as save_arrays
from safetensors.torch import load, save

from glance_fast.config import ModelConfig
from glance_fast.engine import Engine
from glance_fast.errors import ModelFolderError, SaveError
from glance_fast.models.model import GlanceModel
from glance_fast.storage.model_folder import CALIBRATION, CONFIG, SELF_CHECK, WEIGHTS, build_model, read_model
from glance_fast.storage.self_check import MAX_IMAGES, SelfCheck
from glance_fast.version import __version__
from tests.helpers.models import (
    METADATA,
    TRAIN,
    edit_config,
    plant,
    save_tiny,
    tiny_calibration,
    tiny_config,
    tiny_model,
)

FILES = (CONFIG, WEIGHTS, CALIBRATION, SELF_CHECK)


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def open_model(path: Path) -> GlanceModel:
    files = read_model(path)
    files.self_check()
    return build_model(files)


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
        read_model(tiny_folder).digests.weights = ""  # type: ignore[misc]


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_at_any_length_is_found_and_named(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for length in sorted({0, 1, 7, 8, 9, len(whole) - 1, *range(0, len(whole), max(1, len(whole) // 150))}):
        (folder / name).write_bytes(whole[:length])
        with pytest.raises(ModelFolderError, match=name):
            open_model(folder)


@pytest.mark.parametrize("name", [WEIGHTS, CALIBRATION, SELF_CHECK])
def test_a_flipped_bit_is_found_and_named(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for offset in range(0, len(whole), max(1, len(whole) // 40)):
        (folder / name).write_bytes(whole[:offset] + bytes([whole[offset] ^ 16]) + whole[offset + 1 :])
        with pytest.raises(ModelFolderError, match=f"{name} is not the file that this model was saved with"):
            open_model(folder)


@pytest.mark.parametrize("bit", [1, 16])
def test_a_flipped_bit_of_the_configuration_is_found(folder: Path, bit: int) -> None:
    whole = (folder / CONFIG).read_bytes()
    for offset in range(bit % 7, len(whole), 7):
        (folder / CONFIG).write_bytes(whole[:offset] + bytes([whole[offset] ^ bit]) + whole[offset + 1 :])
        with pytest.raises(ModelFolderError, match="|".join(FILES)):
            open_model(folder)


EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "'model' is not": lambda c: c["model"].update(iad_weight=0.25),
    "'train' is not": lambda c: c["train"].update(seed=4),
    "'facts' is not": lambda c: c["facts"].update(data="other tiles"),
    "'version' is not": lambda c: c.update(version="9"),
    "'version' and 'model' are not": lambda c: (c.update(version="9"), c["model"].update(stride=4)),
    "format 3, has a hash of 'self_check.safetensors'": lambda c: c.update(format=3),
    "format 2, has a hash of 'self_check.safetensors'": lambda c: c.update(format=2),
    "format 1, has a hash of 'self_check.safetensors'": lambda c: c.update(format=1),
    "lacks the hash of 'model'": lambda c: c["sha256"].pop("model"),
    "has an unknown part 'note'": lambda c: c.update(note="x"),
}


@pytest.mark.parametrize("message", EDITS)
def test_an_edited_configuration_names_the_part_and_what_to_do(folder: Path, message: str) -> None:
    edit_config(folder, EDITS[message], reseal=False)
    with pytest.raises(ModelFolderError, match=rf"{message}.* restore it from a copy, or train the model again"):
        read_model(folder)


def test_the_layout_of_the_configuration_is_free(folder: Path) -> None:
    values = json.loads((folder / CONFIG).read_text())
    text = json.dumps(dict(reversed(values.items())), indent=7)
    (folder / CONFIG).write_text(text)
    assert read_model(folder).model == tiny_config()


def test_a_folder_of_format_2_has_no_hashes_of_its_settings(folder: Path) -> None:
    values = json.loads((folder / CONFIG).read_text())
    hashes = {name: values["sha256"][name] for name in (WEIGHTS, CALIBRATION)}
    values["model"]["iad_weight"] = 0.25
    (folder / CONFIG).write_text(json.dumps(values | {"format": 2, "sha256": hashes}))
    assert Engine.load(folder).config.iad_weight == 0.25


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
    [b"", b"\xff\xfe\x00", b"null", b"[]", b"{}", b"[" * 100_000, b"9" * 5000, b'{"a": 1, "a": 2}', b'{"a": 1e999}'],
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


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["FIFO", "giant", "device"])
def test_a_file_that_cannot_be_read_whole_is_refused_at_once(folder: Path, name: str, kind: str) -> None:
    (folder / name).unlink()
    if kind == "FIFO":
        os.mkfifo(folder / name)
    elif kind == "device":
        (folder / name).symlink_to("/dev/zero")
    else:
        (folder / name).touch()
        os.truncate(folder / name, 2**40)
    with pytest.raises(ModelFolderError, match=rf"{name} cannot be read \(it (is|has) .*(FIFO|device|at most)"):
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
    "a long header": lambda: (2**21).to_bytes(8, "little") + b" " * 2**21,
    "a tensor twice": lambda: header_text('{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "x": {}}'),
    "integers": lambda: as_state(lambda state: state.update({n: t.int() for n, t in state.items()})),
    "a pickle": lambda: b"\x80\x04cos\nsystem\n(S'true'\ntR.",
}


def header(tensors: dict[str, Any]) -> bytes:
    return header_text(json.dumps(tensors))


def header_text(text: str) -> bytes:
    return len(text).to_bytes(8, "little") + text.encode() + bytes(4)


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
    "NaN is no number": lambda c: c["model"].update(iad_weight=float("nan")),
    "iad_weight = 1.5": lambda c: c["model"].update(iad_weight=1.5),
    "stride = 0": lambda c: c["model"].update(stride=0),
    "smaller than one 512x512 patch": lambda c: c["model"].update(patch=512),
    "teacher": lambda c: c["model"].update(teacher="oracle"),
    "image_size": lambda c: c["model"].update(image_size=[48]),
    "beyond 16384": lambda c: c["model"].update(image_size=[48, 10**9]),
    "global_channels": lambda c: c["model"].update(global_channels=[6, 0]),
    "does not fit": lambda c: c["model"].update(features=9),
    "seed": lambda c: c["train"].update(seed=-1),
    "model: Field required": lambda c: c.pop("model"),
    "sha256: Input should be": lambda c: c.update(sha256=[]),
    "facts: Input should be": lambda c: c.update(facts=None),
    "lacks the hash of 'weights.safetensors'": lambda c: c["sha256"].clear(),
    "lacks the hash of 'self_check.safetensors'": lambda c: c["sha256"].pop("self_check.safetensors"),
    "format 5": lambda c: c.update(format=5),
    "which reads formats 1, 2, 3 and 4: install the matching version": lambda c: c.update(format="1"),
    "format True": lambda c: c.update(format=True),
    "half|surrogates": lambda c: c["facts"].update(data="\ud800"),
    "is not a glance_fast configuration": lambda c: c.pop("format"),
    "weights.safetensors does not fit": lambda c: c["model"].update(local_channels=[7]),
}


@pytest.mark.parametrize("message", BAD_CONFIGS)
def test_a_configuration_of_another_kind_is_refused(folder: Path, message: str) -> None:
    edit_config(folder, BAD_CONFIGS[message])
    with pytest.raises(ModelFolderError, match=message) as caught:
        Engine.load(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"global_channels": [4096] * 4},
            "does not fit config.json: global_net.convs.0.weight is",
        ),
        ({"dad_width": 4096}, "does not fit config.json: distortion"),
        ({"image_size": [16384, 16384]}, "image_size 16384x16384 has 268,435,456 pixels; use at most 33,554,432"),
    ],
    ids=["channels", "classifier", "image"],
)
def test_a_configuration_that_asks_for_more_than_its_weights_takes_no_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], message: str
) -> None:
    edit_config(folder, lambda c: c["model"].update(settings))
    allocated: list[torch.device] = []
    built = GlanceModel.__init__

    def watched(model: GlanceModel, config: ModelConfig) -> None:
        built(model, config)
        allocated.extend(weight.device for weight in model.parameters())

    monkeypatch.setattr(GlanceModel, "__init__", watched)
    with pytest.raises(ModelFolderError, match=message):
        Engine.load(folder)
    assert {device.type for device in allocated} <= {"meta"}


def test_networks_that_see_nothing_round_the_hole_are_refused(tmp_path: Path) -> None:
    check = SelfCheck(np.zeros((1, 48, 56, 3), np.uint8), np.ones((1, 5, 6), np.float32))
    path = save_tiny(tmp_path / "blind", tiny_model(global_channels=(6,)), check)
    with pytest.raises(ModelFolderError, match=r"config.json, model: .* use more global_channels levels"):
        Engine.load(path)


IMAGE, GRID = np.zeros((1, 48, 56, 3), np.uint8), np.ones((1, 5, 6), np.float32)
BAD_SELF_CHECKS: dict[str, tuple[dict[str, Any], str]] = {
    "a map less": ({"image": IMAGE}, "has image"),
    "an array more": ({"image": IMAGE, "grid": GRID, "other": GRID}, "other [1, 5, 6]"),
    "no images": ({"image": IMAGE[:0], "grid": GRID[:0]}, "1 to 4 images"),
    "too many images": ({"image": IMAGE.repeat(5, 0), "grid": GRID.repeat(5, 0)}, "1 to 4 images"),
    "more images than maps": ({"image": IMAGE.repeat(2, 0), "grid": GRID}, "has grid [1, 5, 6]"),
    "another size": ({"image": IMAGE[:, :8], "grid": GRID}, "image [48, 56, 3] and grid [5, 6] are due"),
    "another grid": ({"image": IMAGE, "grid": GRID.transpose(0, 2, 1)}, "has grid [1, 6, 5]"),
    "scalars": ({"image": IMAGE[0, 0, 0, 0], "grid": GRID}, "has"),
    "signed pixels": ({"image": IMAGE.astype(np.int8), "grid": GRID}, "image is int8, and uint8 is due"),
    "double scores": ({"image": IMAGE, "grid": GRID.astype(np.float64)}, "grid is float64, and float32 is due"),
    "scores not finite": ({"image": IMAGE, "grid": GRID * np.nan}, "not finite, or all zero"),
    "scores of zero": ({"image": IMAGE, "grid": GRID * 0}, "not finite, or all zero"),
}


@pytest.mark.parametrize("kind", BAD_SELF_CHECKS)
def test_a_self_check_of_another_kind_is_named(folder: Path, kind: str) -> None:
    arrays, message = BAD_SELF_CHECKS[kind]
    plant(folder, SELF_CHECK, save_arrays({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
    with pytest.raises(ModelFolderError, match=rf"{SELF_CHECK}.*{re.escape(message)}.*restore it from a copy or train"):
        Engine.load(folder)


def test_a_self_check_may_have_more_images(folder: Path) -> None:
    check = read_model(folder).self_check()
    assert check is not None
    images = SelfCheck(check.image.repeat(MAX_IMAGES // 2, 0), check.grid.repeat(MAX_IMAGES // 2, 0))
    plant(folder, SELF_CHECK, images.to_bytes())
    assert Engine.load(folder).score(IMAGE[0]).error is None


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


@pytest.mark.parametrize("writes", [0, 1, 2, 3])
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
