"""The exported graph: the loop's numbers in ONNX Runtime, all outputs, its size, and its metadata."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch

from glance_fast.backends.tolerances import relative_error, tolerance
from glance_fast.config import ModelConfig
from glance_fast.errors import BackendError, ConfigError
from glance_fast.export.graph.builder import Graph
from glance_fast.export.graph.local_net import local_net
from glance_fast.export.graph.pipeline import GRAPH_FORMAT, export_onnx
from glance_fast.export.graph.target import Target
from glance_fast.models.local_net import DistilledLocalNet
from glance_fast.models.model import GlanceModel
from glance_fast.plan.patches import Patches
from glance_fast.plan.plan import refine_bands
from glance_fast.postprocessing.anomaly_map import image_score, map_weights
from glance_fast.presets import PRESETS
from tests.helpers.fake_tensorrt import OPERATORS
from tests.helpers.images import model_images
from tests.helpers.models import (
    EXPORT_CASES,
    fitted_model,
    tiny_calibration,
    tiny_config,
)
from tests.helpers.reference import loop_grids
from tests.helpers.tolerances import assert_close, assert_near

# Names of the settings in the metadata of a graph of format 2.
FORMAT_2_SETTINGS = {
    "image_size",
    "resize",
    "bits",
    "alpha",
    "patch",
    "stride",
    "border_padding",
    "center_offset",
    "features",
    "local_net",
    "feature_block",
    "local_channels",
    "global_channels",
    "global_convs",
    "readout",
    "dad_width",
    "context_features",
    "location_whitening",
    "iad_weight",
    "smoothing_sigma",
    "top_k",
    "teacher",
}


def session(model: GlanceModel) -> onnxruntime.InferenceSession:
    data = export_onnx(model, tiny_calibration()).SerializeToString()
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("changes", EXPORT_CASES, ids=str)
def test_the_graph_is_the_loop_in_onnx_runtime_for_any_batch(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fitted_model(changes)
    images = model_images(model, 2)
    reference = loop_grids(model, images)
    graphs = [session(model)]
    # A plan as small as these is hardly split, and its blocks are finished together: as if it were a large one.
    for name, numbers in (("MIN_OWN_EPILOGUE", 32), ("FULL_SHARED_EPILOGUE", 256), ("MAX_GATHER", 1000)):
        monkeypatch.setattr(f"glance_fast.export.graph.dense_pass.{name}", numbers)
    for min_keys in (3, 12):
        monkeypatch.setattr("glance_fast.export.graph.pipeline.refine_bands", partial(refine_bands, min_keys=min_keys))
        graphs.append(session(model))
    for runs in graphs:
        for batch in (1, 2):
            actual = [runs.run(["anomaly_grid"], {"image": images[i : i + batch]})[0] for i in range(0, 2, batch)]
            assert_close(torch.from_numpy(np.concatenate(actual)), torch.from_numpy(reference), torch.float32)


@pytest.mark.parametrize("changes", [{}, {"top_k": 5, "smoothing_sigma": 0.5}], ids=str)
def test_all_outputs_follow_from_the_grid(changes: dict[str, Any]) -> None:
    model = fitted_model(changes)
    runs = session(model)
    names = [output.name for output in runs.get_outputs()]
    assert names == ["pred_score", "pred_label", "anomaly_map", "pred_mask", "anomaly_grid"]
    images = model_images(model, 3)
    score, label, anomaly_map, mask, grid = runs.run(names, {"image": images})
    rows, cols = map_weights(48, Patches(48, 16, 8)), map_weights(56, Patches(56, 16, 8))
    for actual, scores in zip(score, grid, strict=True):
        assert_near(actual, image_score(scores, model.config.top_k))
    expected_map = rows @ grid.astype(np.float64) @ cols.T
    assert_near(anomaly_map, expected_map, "interpolation")
    np.testing.assert_allclose(anomaly_map, expected_map, rtol=tolerance("output", "fp32"))
    np.testing.assert_array_equal(label, score > np.float32(tiny_calibration().threshold))
    np.testing.assert_array_equal(mask, anomaly_map > np.float32(tiny_calibration().pixel_threshold))


def test_a_threshold_can_be_changed_in_the_file() -> None:
    model = fitted_model({})
    graph = export_onnx(model, tiny_calibration())
    images = model_images(model, 1)
    (at,) = (i for i, tensor in enumerate(graph.graph.initializer) if tensor.name == "threshold")
    for threshold, verdict in ((-1e6, True), (1e6, False)):
        graph.graph.initializer[at].CopyFrom(onnx.numpy_helper.from_array(np.array(threshold, np.float32), "threshold"))
        runs = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        assert runs.run(["pred_label"], {"image": images})[0].tolist() == [verdict]


def test_a_score_that_is_nan_is_not_labelled_normal() -> None:
    model = fitted_model({})
    images = model_images(model, 1)
    model.distortion.get_parameter("classify.4.bias").data.fill_(float("nan"))
    data, core = export_onnx(model, tiny_calibration()).SerializeToString(), openvino.Core()
    names = ["pred_score", "pred_label"]
    runs = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(names, {"image": images})
    compiled = core.compile_model(core.read_model(data), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({"image": images})
    for score, label in (runs, [compiled[name] for name in names]):
        assert np.isnan(score).all() and label.all()


@pytest.mark.parametrize("preset", PRESETS)
def test_the_file_is_little_more_than_the_weights(preset: str) -> None:
    model = GlanceModel(ModelConfig.model_validate(PRESETS[preset]["model"]))
    assert model.config.image_size == (256, 256) and model.config.stride == 8
    weights = sum(weight.numel() * 4 for weight in model.state_dict().values())
    graph, half = (export_onnx(model, tiny_calibration(), Target("onnx", dtype)) for dtype in ("fp32", "fp16"))
    # Of the statistics of locations little more than a triangle is stored.
    saved = 0 if model.whitening is None else 3 / 8 * 4 * model.whitening.matrix.numel()
    assert weights - saved < graph.ByteSize() < weights - saved + 2e6
    # The statistics of locations, which make most of some models, stay in float32.
    networks = sum(weight.numel() for weight in (*model.local_net.parameters(), *model.global_net.parameters()))
    assert half.ByteSize() < graph.ByteSize() - 1.9 * networks
    for exported in (graph, half):
        assert {node.domain for node in exported.graph.node} == {""}
        assert {node.op_type for node in exported.graph.node} <= OPERATORS


@pytest.mark.parametrize(
    "target, message",
    [
        (("tflite",), "unknown kind of graph 'tflite'; legal are onnx, openvino, tensorrt"),
        (("onnx", "bf16"), "graphs of kind onnx are written in fp32 or fp16, not 'bf16'"),
        (("openvino", "int8"), "graphs of kind openvino are written in fp32 or bf16, not 'int8'"),
        (("onnx", "fp32", 90), "for kind 'tensorrt' alone, got 90 for 'onnx'"),
        (("tensorrt", "fp16"), "for kind 'tensorrt' alone, got 0 for 'tensorrt'"),
    ],
)
def test_a_target_that_no_graph_can_have_is_refused(target: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Target(*target)


def test_a_local_net_without_a_graph_is_refused() -> None:
    class Foreign(DistilledLocalNet):
        pass

    with pytest.raises(BackendError, match="Foreign has no graph; DistilledLocalNet and PretrainedLocalNet have one"):
        local_net(Graph("foreign"), Foreign(8, 4, (4, 4)), "image", 4, (1, 1))


def test_nodes_of_plugins_are_for_tensorrt_alone() -> None:
    for target, plugin_scores in ((Target("tensorrt", "fp32", 90), None), (Target(), lambda *values: "scores")):
        with pytest.raises(ConfigError, match="plugin_scores is for graphs of kind 'tensorrt'"):
            export_onnx(fitted_model({}), tiny_calibration(), target, plugin_scores)


def test_the_file_says_what_it_is() -> None:
    model = fitted_model({})
    metadata = {entry.key: entry.value for entry in export_onnx(model, tiny_calibration()).metadata_props}
    assert metadata["glance_fast.format"] == str(GRAPH_FORMAT) == "2" and metadata["glance_fast.version"]
    assert set(json.loads(metadata["glance_fast.model"])) == FORMAT_2_SETTINGS, "other names need another format"
    assert ModelConfig.model_validate_json(metadata["glance_fast.model"]) == tiny_config()
    assert json.loads(metadata["glance_fast.calibration"])["threshold"] == tiny_calibration().threshold


@pytest.mark.parametrize("changes", EXPORT_CASES[4:6], ids=str)
def test_half_floats_stay_finite_on_extreme_images(changes: dict[str, Any]) -> None:
    """Black, white, and black beside white: what overflows in half floats gives NaN in others' exports."""
    model = fitted_model(changes)
    height, width = model.config.image_size
    images = np.zeros((3, height, width, 3), np.uint8)
    images[1:, :, width // 2 :], images[1] = 255, 255
    full, half = (
        onnxruntime.InferenceSession(
            export_onnx(model, tiny_calibration(), Target("onnx", precision)).SerializeToString(),
            providers=["CPUExecutionProvider"],
        ).run(["anomaly_grid"], {"image": images})[0]
        for precision in ("fp32", "fp16")
    )
    assert np.isfinite(half).all()
    assert 0 < relative_error(half, full) < tolerance("output", "fp16")
