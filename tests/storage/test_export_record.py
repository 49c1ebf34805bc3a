"""Records of exports: damaged, foreign, newer and stale records are named, with the command that helps."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glance_fast.engine import Engine
from glance_fast.errors import BackendError, ModelFolderError
from glance_fast.storage.export_record import RUNTIME_FORMAT, export_path
from glance_fast.storage.model_folder import WEIGHTS, read_model
from tests.helpers.models import as_format_3, edit_config


def test_a_folder_without_weights_runs_its_exports(exported_copy: Path) -> None:
    (exported_copy / WEIGHTS).unlink()
    assert Engine.load(exported_copy).backend.name == "openvino"
    with pytest.raises(ModelFolderError, match=WEIGHTS):
        Engine.load(exported_copy, "torch")


@pytest.mark.parametrize("backend, suffix", [("openvino", ".xml"), ("openvino", ".bin"), ("onnxruntime", ".onnx")])
def test_a_damaged_export_is_named(exported_copy: Path, backend: str, suffix: str) -> None:
    form = "onnx" if suffix == ".onnx" else "openvino"
    path = export_path(exported_copy, form, "fp32").with_suffix(suffix)
    whole = path.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFolderError, match=rf"{path.name} .*make it again with: glance-fast export"):
            Engine.load(exported_copy, backend)
    path.unlink()
    with pytest.raises(ModelFolderError, match=path.name):
        Engine.load(exported_copy, backend)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"format": 3, "version": "9.9"}, "format 3, written by glance_fast 9.9"),
        ({"format": 1, "settings": None, "calibration": None}, "does not say which settings and calibration"),
        ({"settings": "0" * 64}, "made from other settings than .* make it again with: glance-fast export"),
        ({"calibration": "0" * 64}, "made from other calibration"),
        ({"model": "0", "settings": "0"}, "made from other weights and settings"),
        ({"precision": "bf16"}, "an export to openvino at bf16"),
        ({"model": "0" * 64}, "made from other weights"),
        ({"sha256": {".py": "0"}}, "no file"),
        ({"sha256": {"a": "0"}}, "an export to openvino has no file 'a'; make it again with: glance-fast export"),
        ({"sha256": {"/../x": "0"}}, "an export to openvino has no file '/../x'"),
        ({"sha256": {"": "0"}}, "an export to openvino has no file ''"),
        ({"more": 1}, "no record of an export: more"),
        ({"format": "one"}, "no record of an export: format"),
        ({"sha256": {}}, "does not list openvino-fp32.xml"),
    ],
)
def test_a_foreign_newer_or_stale_record_is_named(exported_copy: Path, changes: dict[str, Any], message: str) -> None:
    path = export_path(exported_copy, "openvino", "fp32")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ModelFolderError, match=message):
        Engine.load(exported_copy, "openvino")


@pytest.mark.parametrize("suffix", [".xml", ".bin"])
def test_a_record_without_a_file_of_its_format_names_the_file(exported_copy: Path, suffix: str) -> None:
    path = export_path(exported_copy, "openvino", "fp32")
    record = json.loads(path.read_text())
    del record["sha256"][suffix]
    path.write_text(json.dumps(record))
    with pytest.raises(ModelFolderError, match=f"does not list openvino-fp32{suffix}; make it again with: glance-fast"):
        Engine.load(exported_copy, "openvino")


@pytest.mark.parametrize("backend, suffix", [("openvino", ".xml"), ("onnxruntime", ".onnx")])
def test_a_graph_that_no_runtime_reads_is_named(exported_copy: Path, backend: str, suffix: str) -> None:
    path = export_path(exported_copy, RUNTIME_FORMAT[backend], "fp32")
    reseal(path, suffix, b"no graph")
    with pytest.raises(ModelFolderError, match="cannot read this graph"):
        Engine.load(exported_copy, backend)


def reseal(path: Path, suffix: str, data: bytes) -> None:
    """Replace a file of an export and set its hash right in the record."""
    path.with_suffix(suffix).write_bytes(data)
    record = json.loads(path.read_text())
    record["sha256"][suffix] = hashlib.sha256(data).hexdigest()
    path.write_text(json.dumps(record))


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "bytes that are no text": lambda data: data.replace(b"anomaly_grid", b"anomaly\xb8grid"),
    "an output of another name": lambda data: data.replace(b"anomaly_grid", b"anomaly_grod"),
    "an input of another name": lambda data: data.replace(b"image", b"imoge"),
    "an unknown operation": lambda data: data.replace(b"Gather", b"Gother"),
    "half of it": lambda data: data[: len(data) // 2],
    "zeros": lambda data: data[:500] + bytes(1000) + data[1500:],
}


@pytest.mark.parametrize("backend, suffix", [("openvino", ".xml"), ("onnxruntime", ".onnx")])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_graph_with_its_right_hash_is_an_error_of_ours(
    exported_copy: Path, backend: str, suffix: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = export_path(exported_copy, RUNTIME_FORMAT[backend], "fp32")
    reseal(path, suffix, DAMAGE[damage](path.with_suffix(suffix).read_bytes()))
    with pytest.raises((ModelFolderError, BackendError)):
        Engine.load(exported_copy, backend).score(np.zeros((48, 56, 3), np.uint8))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("change", [{"image_size": [64, 64]}, {"stride": 4}, {"border_padding": 4}], ids=str)
def test_an_export_that_has_other_locations_than_the_settings_is_refused(
    exported_copy: Path, backend: str, change: dict[str, Any]
) -> None:
    edit_config(exported_copy, lambda config: config["model"].update(change))
    path = export_path(exported_copy, RUNTIME_FORMAT[backend], "fp32")
    digest = read_model(exported_copy).digests.settings
    path.write_text(json.dumps(json.loads(path.read_text()) | {"settings": digest}))
    with pytest.raises(ModelFolderError, match=r"self_check.safetensors has grid \[2, 5, 6\] .* are due"):
        Engine.load(exported_copy, backend)
    edit_config(exported_copy, as_format_3)
    with pytest.raises(BackendError):
        Engine.load(exported_copy, backend)


@pytest.mark.parametrize("kind", ["FIFO", "giant", "folder", "link to nothing"])
@pytest.mark.parametrize("suffix", [".json", ".xml", ".bin"])
def test_a_file_of_an_export_that_cannot_be_read_whole_is_refused_at_once(
    exported_copy: Path, suffix: str, kind: str
) -> None:
    path = export_path(exported_copy, "openvino", "fp32").with_suffix(suffix)
    path.unlink()
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "giant":
        path.touch()
        os.truncate(path, 2**40)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("nothing")
    with pytest.raises(ModelFolderError, match=rf"openvino-fp32{suffix} cannot be read .*make it again with"):
        Engine.load(exported_copy)
