"""Graphs in 8 bits: near the loop, with the scales that TensorRT needs; errors say what is missing."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import onnx
import onnxruntime
import pytest

from glance_fast.backends.tolerances import relative_error, tolerance
from glance_fast.engine import Engine
from glance_fast.errors import BackendError, MissingDependencyError
from glance_fast.export.export import export
from glance_fast.export.graph.pipeline import export_onnx
from glance_fast.export.quantization import onnx_qdq
from glance_fast.export.quantization.onnx_qdq import quantize_int8_for_tensorrt
from glance_fast.plan.plan import refine_bands
from glance_fast.storage.export_record import export_path
from tests.helpers.fake_tensorrt import OPERATORS
from tests.helpers.images import model_images, save_images, textured_image
from tests.helpers.models import (
    fitted_model,
    save_tiny,
    tiny_calibration,
)
from tests.helpers.reference import loop_grids


def test_the_quantizers_warnings_are_dropped_and_no_others(caplog: pytest.LogCaptureFixture) -> None:
    root, path = logging.getLogger(), "site-packages/onnxruntime/quantization/quantize.py"
    level = root.level
    with caplog.at_level(logging.WARNING), onnx_qdq._without_warnings():
        root.handle(root.makeRecord("root", logging.WARNING, path, 1, "simplify it first", (), None))
        root.handle(root.makeRecord("root", logging.ERROR, path, 1, "an error", (), None))
        logging.warning("of the program")
    assert [record.getMessage() for record in caplog.records] == ["an error", "of the program"]
    assert root.level == level and not root.filters


@pytest.mark.parametrize("backend, form", [("openvino", "openvino"), ("onnxruntime", "onnx")])
def test_int8_is_near_and_smaller_steps_are_kept(tmp_path: Path, backend: str, form: str) -> None:
    """Blocks in 8 bits, ranges from photographs: coarse, and still the same picture."""
    folder = save_tiny(tmp_path / "model", fitted_model({"global_channels": (16, 24, 32, 32)}))
    save_images(tmp_path / "data", 24)
    export(folder, form, "int8", tmp_path / "data")
    image = textured_image(48, 56, 99)
    reference = Engine.load(folder, "torch").score(image).map
    engine = Engine.load(folder, backend, precision="int8")
    actual = engine.score(image).map
    assert 0 < relative_error(actual, reference) < tolerance("output", "int8")
    kind, suffix = {"openvino": (b"FakeQuantize", ".xml"), "onnx": (b"DequantizeLinear", ".onnx")}[form]
    assert kind in export_path(folder, form, "int8").with_suffix(suffix).read_bytes()
    assert engine.backend.device_description == "cpu at int8"


def test_modelopt_gives_each_column_of_a_blocks_weights_a_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its graph as TensorRT reads it: constant weights by their columns, what is multiplied by one scale."""
    monkeypatch.setattr("glance_fast.export.graph.pipeline.refine_bands", partial(refine_bands, min_keys=3))
    model = fitted_model({"global_channels": (16, 24, 32, 32)})
    images = model_images(model, 8)
    graph = export_onnx(model, tiny_calibration())
    quantized = quantize_int8_for_tensorrt(graph, [*images[1:]])
    assert {node.op_type for node in quantized.graph.node} <= OPERATORS | {"QuantizeLinear", "DequantizeLinear"}
    assert quantized.metadata_props == graph.metadata_props
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    producer = {name: node for node in quantized.graph.node for name in node.output}
    products = [node for node in quantized.graph.node if "blocks/" in node.name and node.op_type == "MatMul"]
    assert len(products) == sum("blocks/" in node.name for node in graph.graph.node)
    small = [node for node in products if node.input[1] in constants and min(constants[node.input[1]].shape) < 16]
    large = [node for node in products if node not in small]
    assert len(large) > 10
    for product in large:
        windows, weights = (producer[name] for name in product.input)
        assert {windows.op_type, weights.op_type} == {"DequantizeLinear"}
        scale, columns = constants[windows.input[1]], constants[weights.input[1]]
        stored = producer.get(weights.input[0], weights)
        assert scale.shape == () and columns.shape == constants[stored.input[0]].shape[1:]
        assert not any(constants[name].any() for name in (windows.input[2], weights.input[2])), "not symmetric"
    # As the graph is written: some CPUs' own 8-bit products overflow.
    plain = onnxruntime.SessionOptions()
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    actual = onnxruntime.InferenceSession(quantized.SerializeToString(), plain).run(["anomaly_grid"], {"image": images})
    reference = loop_grids(model, images)
    assert 0 < relative_error(actual[0], reference) < tolerance("output", "int8")


def test_int8_for_tensorrt_names_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fitted_model({"global_channels": (16, 24, 32, 32)})
    graph, images = export_onnx(model, tiny_calibration()), [*model_images(model, 1)]
    with pytest.raises(BackendError, match="could not make 8 bits of the graph: .*image"):
        quantize_int8_for_tensorrt(graph, [images[0][:9]])
    (tmp_path / "modelopt").mkdir()
    (tmp_path / "modelopt" / "__init__.py").write_text("raise ImportError('no lief\\nhere')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match=r"no lief here; .*tensorrt-int8\]"):
        quantize_int8_for_tensorrt(graph, images)
    monkeypatch.setattr("glance_fast.export.quantization.modelopt.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"ModelOpt; .*'\.\[tensorrt-int8\]'"):
        quantize_int8_for_tensorrt(graph, images)
