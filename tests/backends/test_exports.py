"""Backends that run exports: PyTorch's results from any thread, at every precision; errors say what to run."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch

from glance_fast.backends.openvino_backend import multiplies_bfloat16
from glance_fast.backends.registry import runnable
from glance_fast.backends.tolerances import relative_error, tolerance
from glance_fast.engine import Engine
from glance_fast.errors import BackendError, ImageError, MissingDependencyError
from glance_fast.storage.export_record import EXPORT_FORMATS
from tests.helpers.images import textured_image
from tests.helpers.models import (
    save_tiny,
    tiny_model,
)
from tests.helpers.threads import assert_threads_agree
from tests.helpers.tolerances import assert_same_result


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_results_do_not_depend_on_the_backend(exported_folder: Path, backend: str) -> None:
    """Images of other sizes are resized by the same code, and scored in a list as one by one."""
    reference, engine = Engine.load(exported_folder, "torch"), Engine.load(exported_folder, backend)
    images = [textured_image(48, 56), textured_image(96, 112, 1), textured_image(37, 53, 2)]
    for image, result, listed in zip(images, map(engine.score, images), engine.score(images), strict=True):
        assert_same_result(result, reference.score(image))
        assert_same_result(listed, result)
        assert result.map.shape == image.shape[:2] and isinstance(result.map, np.ndarray)
    tensor = engine.score(torch.from_numpy(images[0]))
    assert isinstance(tensor.map, torch.Tensor)
    assert_same_result(tensor, engine.score(images[0]))


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_any_thread_may_score(exported_folder: Path, backend: str) -> None:
    assert_threads_agree(Engine.load(exported_folder, backend))


@pytest.mark.parametrize("backend, precision", [("openvino", "bf16"), ("openvino", "fp16"), ("onnxruntime", "fp16")])
def test_lower_precision_is_within_its_tolerance(exported_folder: Path, backend: str, precision: str) -> None:
    if precision == "bf16" and not multiplies_bfloat16():
        pytest.skip("this CPU multiplies no bfloat16")
    reference = Engine.load(exported_folder, "torch").score(textured_image(48, 56))
    actual = Engine.load(exported_folder, backend, precision=precision).score(textured_image(48, 56))
    assert 0 < relative_error(actual.map, reference.map) < tolerance("output", precision)


@pytest.mark.parametrize("bfloat16", [True, False])
def test_bfloat16_runs_where_the_cpu_has_it_and_is_refused_where_not(
    exported_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, bfloat16: bool
) -> None:
    """OpenVINO would compute in float32 there and not say so."""
    monkeypatch.setattr("glance_fast.backends.openvino_backend.multiplies_bfloat16", lambda: bfloat16)
    logging.getLogger("glance_fast").propagate = True
    with caplog.at_level(logging.WARNING, "glance_fast"):
        assert (("openvino", "bf16") in runnable(exported_folder)) == bfloat16
    messages = [record.getMessage() for record in caplog.records]
    if bfloat16:
        assert (
            Engine.load(exported_folder, precision="bf16").backend.device_description == "cpu at bf16" and not messages
        )
        return
    assert (
        messages[0].startswith("openvino at bf16 is left out: this CPU multiplies no bfloat16") and len(messages) == 1
    )
    for backend in ("auto", "openvino"):
        with pytest.raises(BackendError, match=r"'bf16' was requested; this CPU .* use 'fp32', .*--precision fp32"):
            Engine.load(exported_folder, backend, precision="bf16")


def test_auto_takes_an_export_and_says_so(
    exported_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("glance_fast").propagate = True
    with caplog.at_level(logging.INFO, "glance_fast"):
        assert Engine.load(exported_folder).backend.name == "openvino"
        assert Engine.load(save_tiny(tmp_path / "model", tiny_model())).backend.name == "torch"
    chosen = [record.getMessage() for record in caplog.records]
    assert chosen[0] == "backend auto: openvino on cpu at fp32"
    with pytest.raises(BackendError, match="make one where the model was trained, with: glance-fast export"):
        Engine.load(tmp_path / "model", precision="bf16")


def test_the_loop_is_torchs(exported_folder: Path) -> None:
    with pytest.raises(BackendError, match=r"backend='torch'"):
        Engine.load(exported_folder, "openvino").score(textured_image(48, 56), method="loop")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"backend": "openvino", "precision": "int8"}, r"has openvino at fp32, .*--to openvino --precision int8"),
        ({"backend": "onnxruntime", "precision": "int8"}, r"has onnx at fp32, onnx at fp16; make it"),
        ({"backend": "openvino", "device": "cuda"}, r"runs on the CPU"),
        ({"backend": "torch", "precision": "bf16"}, r"'torch' runs at fp32"),
        ({"precision": "fp8"}, r"unknown precision 'fp8'; legal are bf16, fp16, fp32, int8"),
        ({"backend": "torch", "streams": 2}, r"'torch' has one stream, and 2 were requested; use 'openvino' or"),
        ({"backend": "openvino", "streams": 0}, r"0 streams were requested; legal are 1 to \d+, the cores"),
        ({"backend": "onnxruntime", "streams": 10_000}, r"10000 streams were requested; legal are 1 to \d+, the cores"),
    ],
)
def test_a_missing_export_names_the_command_that_builds_it(
    exported_folder: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(BackendError, match=message):
        Engine.load(exported_folder, **arguments)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_two_streams_give_the_scores_of_a_single_stream_in_order(
    exported_folder: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glance_fast.backends.registry.cpu_threads", lambda: 2)
    single, double, default = (Engine.load(exported_folder, backend, streams=streams) for streams in (1, 2, None))
    assert (single.backend.streams, double.backend.streams, default.backend.streams) == (1, 2, 2)
    assert double.backend.device_description == f"{single.backend.device_description}, 2 streams"
    images = [textured_image(48 + seed, 56, seed) for seed in range(11)]
    expected = [single.score(image) for image in images]
    for actual in (double.score(images), [*double.stream(images, ahead=2)], [double.score(image) for image in images]):
        for result, reference in zip(actual, expected, strict=True):
            assert_same_result(result, reference)
    *_, failed = double.score([*images, images[0][:9]])
    assert isinstance(failed.error, ImageError)


@pytest.mark.parametrize("package, backend", [("openvino", "openvino"), ("onnxruntime", "onnxruntime")])
def test_a_missing_package_names_what_to_install(
    exported_folder: Path, package: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"glance_fast.backends.{backend}_backend", raising=False)
    with pytest.raises(MissingDependencyError, match=f"needs the package {package!r}; install it with: pip install"):
        Engine.load(exported_folder, backend)


def test_openvino_computes_in_a_lower_precision_only_on_request(exported_folder: Path) -> None:
    backend = Engine.load(exported_folder, "openvino").backend
    hint = backend._compiled.get_property("INFERENCE_PRECISION_HINT")  # type: ignore[attr-defined]
    assert hint == openvino.Type.f32
    assert EXPORT_FORMATS["openvino"][0] == "fp32"
