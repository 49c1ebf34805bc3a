"""Building TensorRT engines, on a faked device and library: options, 8 bits, what stops a build."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glance_fast.backends.tolerances import relative_error, tolerance
from glance_fast.engine import Engine
from glance_fast.errors import BackendError, ConfigError
from glance_fast.export.export import export
from glance_fast.export.tensorrt.options import TensorRtOptions
from glance_fast.storage.export_record import export_path
from glance_fast.storage.model_folder import WEIGHTS
from tests.helpers import fake_tensorrt
from tests.helpers.fake_machine import Machine
from tests.helpers.images import textured_image
from tests.helpers.models import fitted_model, save_tiny
from tests.helpers.tolerances import assert_near


def test_the_onnx_file_is_enough_to_build_an_engine(engine_folder: Path) -> None:
    for precision in ("fp32", "fp16"):
        export(engine_folder, "onnx", precision)
    (engine_folder / WEIGHTS).unlink()
    export_path(engine_folder, "tensorrt", "fp32").unlink()
    export(engine_folder, "tensorrt")
    reference = Engine.load(engine_folder, "tensorrt", "cuda").score(textured_image(48, 56))
    export(engine_folder, "tensorrt", "fp16")
    half = Engine.load(engine_folder, "tensorrt", "cuda", "fp16").score(textured_image(48, 56))
    assert 0 < relative_error(half.score, reference.score) < tolerance("output", "fp16")


def test_int8_is_modelopts_with_photographs_and_the_onnx_files_without(machine: Machine, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for seed in range(8):
        Image.fromarray(textured_image(48, 56, seed)).save(data / f"{seed}.png")
    folder = save_tiny(tmp_path / "model", fitted_model({"global_channels": (16, 24, 32, 32)}))
    reference = Engine.load(folder, "torch").score(textured_image(48, 56)).map
    export(folder, "onnx", "int8", data)
    maps = []
    for photographs in (None, data):
        export(folder, "tensorrt", "int8", photographs)
        maps.append(Engine.load(folder, "tensorrt", "cuda", "int8").score(textured_image(48, 56)).map)
        assert 0 < relative_error(maps[-1], reference) < tolerance("output", "int8")
    by_onnx_runtime = Engine.load(folder, "onnxruntime", precision="int8").score(textured_image(48, 56)).map
    assert_near(maps[0], by_onnx_runtime, "same graph")
    assert not np.array_equal(maps[0], maps[1])


def test_options_reach_the_builder(engine_folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "timings"
    options = TensorRtOptions(4, any_version=True, any_gpu=True, timing_cache=cache)
    for contents in (b"t", b"tt"):
        export(engine_folder, "tensorrt", tensorrt=options)
        assert cache.read_bytes() == contents
    config = fake_tensorrt.Builder.last
    assert config.profiles[0].shapes == {"image": ((1, 48, 56, 3), (1, 48, 56, 3), (4, 48, 56, 3))}
    assert [flag.name for flag in config.set] == ["VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"]
    assert config.hardware_compatibility_level.name == "AMPERE_PLUS"
    export(engine_folder, "tensorrt")
    assert fake_tensorrt.Builder.last.set == []
    assert fake_tensorrt.Builder.last.hardware_compatibility_level.name == "NONE"


def test_nodes_that_the_parser_refuses_are_named(engine_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_tensorrt.OnnxParser, "refused", ("TopK",))
    with pytest.raises(BackendError, match=r"cannot read the graph: node 'TopK_\d+' \(TopK\): no such operator"):
        export(engine_folder, "tensorrt")


def test_build_failures_are_reported(engine_folder: Path, tmp_path: Path, machine: Machine) -> None:
    machine.patch.setattr(fake_tensorrt.Builder, "fails", True)
    with pytest.raises(BackendError, match="cannot build a TensorRT engine: out of memory"):
        export(engine_folder, "tensorrt")
    cache = tmp_path / "timings"
    cache.write_bytes(b"other gpu")
    with pytest.raises(ConfigError, match="no timing cache of TensorRT 11"):
        export(engine_folder, "tensorrt", tensorrt=TensorRtOptions(timing_cache=cache))
    with pytest.raises(ConfigError, match="batch must be from 1 to 256, got 0"):
        TensorRtOptions(batch=0)
    with pytest.raises(ConfigError, match="are settings of tensorrt, and not of onnx"):
        export(engine_folder, "onnx", tensorrt=TensorRtOptions())

    def no_builder(self: object, logger: object) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    machine.patch.setattr(fake_tensorrt.Builder, "__init__", no_builder)
    with pytest.raises(BackendError, match="cannot build here"):
        export(engine_folder, "tensorrt")
