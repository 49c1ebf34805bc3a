"""Process replay: what was recorded before the code moved comes out again, and old model folders give their scores."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import triton

from glance_fast.backends.tolerances import relative_error, tolerance
from glance_fast.engine import Engine
from glance_fast.export.export import export
from glance_fast.presets import PRESETS
from tests.replay.record import RECORDED, graphs, kernels_elsewhere, plans

FOLDER = Path(__file__).parent


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    record: dict[str, Any] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return record


def test_plans_are_the_same(recorded: dict[str, Any]) -> None:
    assert plans() == recorded["plans"]


@pytest.mark.parametrize("preset", PRESETS)
def test_exported_graphs_are_the_same(preset: str, recorded: dict[str, Any]) -> None:
    expected = recorded["graphs"][preset]
    actual = graphs(preset)
    assert {form: structure for form, (structure, _) in actual.items()} == {
        form: structure for form, (structure, _) in expected.items()
    }
    for form, (_, sums) in actual.items():
        np.testing.assert_allclose(sums, expected[form][1], rtol=tolerance("graph weights", "fp32"), err_msg=form)


def test_kernels_are_the_same(recorded: dict[str, Any]) -> None:
    if triton.__version__ != recorded["triton"]:
        pytest.skip(f"recorded with Triton {recorded['triton']}, whose compiler this is not")
    assert kernels_elsewhere() == recorded["kernels"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model folders that version 0.1.0 wrote, one with exports."""
    path = tmp_path_factory.mktemp("models")
    with zipfile.ZipFile(FOLDER / "models_0_1_0.zip") as archive:
        archive.extractall(path)
    return path


@pytest.mark.parametrize(
    ("name", "backend", "method"),
    [
        ("plain", "torch", "dense"),
        ("plain", "torch", "loop"),
        ("plain", "openvino", "dense"),
        ("plain", "onnxruntime", "dense"),
        ("trunk", "torch", "dense"),
    ],
)
def test_a_model_folder_of_version_0_1_0_gives_its_scores(name: str, backend: str, method: str, folders: Path) -> None:
    assert_recorded_results(Engine.load(folders / name, backend=backend), name, method)


@pytest.mark.parametrize(("form", "backend"), [("openvino", "openvino"), ("onnx", "onnxruntime")])
def test_a_new_export_of_a_folder_of_version_0_1_0_gives_its_scores(
    form: str, backend: str, folders: Path, tmp_path: Path
) -> None:
    """Its exports were made of the other network alone."""
    folder = tmp_path / "trunk"
    shutil.copytree(folders / "trunk", folder)
    export(folder, form, "fp32")
    assert_recorded_results(Engine.load(folder, backend=backend), "trunk", "dense")


def assert_recorded_results(engine: Engine, name: str, method: str) -> None:
    """Hold thresholds, maps, scores and p-values of an engine to those that version 0.1.0 gave for the folder."""
    expected = np.load(FOLDER / "expected_0_1_0.npz")
    limits = [engine.threshold, engine.pixel_threshold]
    assert limits == expected[f"{name}_thresholds"].tolist()
    for i, image in enumerate(expected[f"{name}_images"]):
        result = engine.score(image, method=method)
        assert relative_error(result.map, expected[f"{name}_{i}_map"]) <= tolerance("output", "fp32")
        assert result.score == pytest.approx(float(expected[f"{name}_{i}_score"]), rel=tolerance("output", "fp32"))
        assert result.p_value == float(expected[f"{name}_{i}_p"])
