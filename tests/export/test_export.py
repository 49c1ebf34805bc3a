"""Exports: every runtime gives the loop's numbers, the file says what it is, and a wrong one says what to do."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import glance_fast
from bench.startup import install, sizes
from glance_fast.backends.openvino_backend import multiplies_bfloat16
from glance_fast.backends.registry import runnable
from glance_fast.config import ModelConfig
from glance_fast.data.images import read_image
from glance_fast.engine import Engine
from glance_fast.errors import BackendError, ConfigError, ImageError, MissingDependencyError, ModelFolderError
from glance_fast.evaluation.parity import verify
from glance_fast.evaluation.tolerances import relative_error, tolerance
from glance_fast.export.export import export
from glance_fast.export.graph.pipeline import export_onnx
from glance_fast.export.graph.target import Target
from glance_fast.export.quantization import onnx_qdq
from glance_fast.export.quantization.onnx_qdq import quantize_int8_for_tensorrt
from glance_fast.kernels.cpu.build import COMPILERS
from glance_fast.models.model import GlanceModel
from glance_fast.plan.patches import Patches
from glance_fast.plan.plan import refine_bands
from glance_fast.postprocessing.anomaly_map import image_score, map_weights
from glance_fast.presets import PRESETS
from glance_fast.storage.export_record import EXPORT_FORMATS, export_path
from glance_fast.storage.model_folder import WEIGHTS
from tests.helpers.reference import loop_grids
from tests.helpers.tiny_models import save_tiny, tiny_calibration, tiny_config, tiny_model
from tests.helpers.tolerances import assert_close
from tests.test_engine import photo, same

ROOT = Path(__file__).resolve().parents[2]
# Whether our kernels for CPUs can be compiled here.
COMPILES = sys.platform == "linux" and any(map(shutil.which, COMPILERS))
TRUNK: dict[str, Any] = {
    "local_net": "pretrained", "patch": 83, "stride": 24, "border_padding": 38, "location_whitening": True,
    "global_channels": (6, 8, 8, 8), "global_convs": 2,
}  # fmt: skip
MODELS: list[dict[str, Any]] = [
    {},
    {"image_size": (37, 53), "patch": 11, "stride": 3, "top_k": 4},
    {"image_size": (64, 41), "stride": 9, "global_convs": 2, "readout": 2},
    {
        "image_size": (53, 37),
        "patch": 8,
        "stride": 5,
        "readout": 3,
        "global_channels": (6, 8, 8),
        "smoothing_sigma": 0.75,
    },
    {"image_size": (37, 53), "patch": 19, "stride": 4, "border_padding": 9, "location_whitening": True},
    {"image_size": (150, 131), **TRUNK, "smoothing_sigma": 1.5},
    {"image_size": (140, 125), **TRUNK, "stride": 20, "border_padding": 30, "readout": 2},
    {"image_size": (171, 163), **TRUNK, "stride": 28, "border_padding": 0, "features": 168},
    {"image_size": (98, 115), **TRUNK, "stride": 8, "context_features": 5},
    {"image_size": (170, 187), **TRUNK, "feature_block": 3, "global_channels": (6, 8, 8)},
]
# What https://docs.nvidia.com/deeplearning/tensorrt's operator table lists for the types that our graphs use.
TENSORRT = {
    "Add", "And", "AveragePool", "Cast", "Clip", "Concat", "Conv", "Div", "Expand", "Gather", "Greater", "Identity",
    "MatMul", "Max", "MaxPool", "Mul", "Neg", "Pad", "Range", "ReduceMean", "Relu", "Reshape", "ScatterElements",
    "Sigmoid", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "TopK", "Transpose", "Where",
}  # fmt: skip


def usual_model(changes: dict[str, Any]) -> GlanceModel:
    """A tiny model whose locations are whitened by something, where they are whitened."""
    model = tiny_model(**changes)
    if model.whitening is not None:
        torch.manual_seed(5)
        model.whitening.mean.normal_(0, 0.3)
        model.whitening.matrix.add_(0.2 * torch.randn_like(model.whitening.matrix).tril())
        model.score_offset.copy_(torch.tensor([0.4, -0.2]))
        model.score_scale.copy_(torch.tensor([1.3, 0.7]))
    return model


def photos(model: GlanceModel, count: int) -> NDArray[np.uint8]:
    return np.stack([photo(*model.config.image_size, seed) for seed in range(count)])


def session(model: GlanceModel) -> onnxruntime.InferenceSession:
    data = export_onnx(model, tiny_calibration()).SerializeToString()
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("changes", MODELS, ids=str)
def test_the_graph_is_the_loop_in_onnx_runtime_for_any_batch(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = usual_model(changes)
    images = photos(model, 2)
    reference = loop_grids(model, images)
    graphs = [session(model)]
    # A plan as small as these is hardly split, and its blocks are finished together: as if it were a large one.
    for name, numbers in (("MIN_OWN_EPILOGUE", 32), ("FULL_SHARED_EPILOGUE", 256), ("MAX_GATHER", 1000)):
        monkeypatch.setattr(f"glance_fast.export.graph.dense_pass.{name}", numbers)
    for least in (3, 12):
        monkeypatch.setattr("glance_fast.export.graph.pipeline.refine_bands", partial(refine_bands, min_keys=least))
        graphs.append(session(model))
    for runs in graphs:
        for batch in (1, 2):
            found = [runs.run(["anomaly_grid"], {"image": images[i : i + batch]})[0] for i in range(0, 2, batch)]
            assert_close(torch.from_numpy(np.concatenate(found)), torch.from_numpy(reference), torch.float32)


@pytest.mark.parametrize("changes", MODELS, ids=str)
def test_the_graph_is_the_loop_in_openvino(changes: dict[str, Any], tmp_path: Path) -> None:
    """As plain operators and with our kernels; these in bfloat16 too."""
    model = usual_model(changes)
    folder = save_tiny(tmp_path / "model", model)
    images = photos(model, 2)
    reference = torch.from_numpy(loop_grids(model, images))
    for plugins in (False, True) if COMPILES else (False,):
        export(folder, "openvino", "fp32", plugins=plugins)
        backend = Engine.load(folder, "openvino").backend
        assert backend.device_description == "cpu at fp32" + ", with plugins" * plugins
        assert_close(torch.from_numpy(np.stack(backend.grids(list(images)))), reference, torch.float32)
    if COMPILES and multiplies_bfloat16():
        export(folder, "openvino", "bf16", plugins=True)
        found = Engine.load(folder, "openvino", precision="bf16").backend.grids(list(images))
        assert tolerance("output", "fp32") < relative_error(np.stack(found), reference) < tolerance("output", "bf16")


@pytest.mark.parametrize("changes", [{}, {"top_k": 5, "smoothing_sigma": 0.5}], ids=str)
def test_all_outputs_follow_from_the_grid(changes: dict[str, Any]) -> None:
    model = usual_model(changes)
    runs = session(model)
    names = [output.name for output in runs.get_outputs()]
    assert names == ["pred_score", "pred_label", "anomaly_map", "pred_mask", "anomaly_grid"]
    images = photos(model, 3)
    score, label, anomaly_map, mask, grid = runs.run(names, {"image": images})
    rows, cols = map_weights(48, Patches(48, 16, 8)), map_weights(56, Patches(56, 16, 8))
    np.testing.assert_allclose(score, [image_score(one, model.config.top_k) for one in grid], rtol=1e-5)
    np.testing.assert_allclose(anomaly_map, rows @ grid @ cols.T, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(label, score > np.float32(tiny_calibration().threshold))
    np.testing.assert_array_equal(mask, anomaly_map > np.float32(tiny_calibration().pixel_threshold))


def test_a_threshold_can_be_changed_in_the_file() -> None:
    model = usual_model({})
    graph = export_onnx(model, tiny_calibration())
    images = photos(model, 1)
    (at,) = (i for i, tensor in enumerate(graph.graph.initializer) if tensor.name == "threshold")
    for threshold, verdict in ((-1e6, True), (1e6, False)):
        graph.graph.initializer[at].CopyFrom(onnx.numpy_helper.from_array(np.array(threshold, np.float32), "threshold"))
        runs = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        assert runs.run(["pred_label"], {"image": images})[0].tolist() == [verdict]


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
    for one in (graph, half):
        assert {node.domain for node in one.graph.node} == {""}
        assert {node.op_type for node in one.graph.node} <= TENSORRT


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


def test_the_quantizers_warnings_are_dropped_and_no_others(caplog: pytest.LogCaptureFixture) -> None:
    root, path = logging.getLogger(), "site-packages/onnxruntime/quantization/quantize.py"
    level = root.level
    with caplog.at_level(logging.WARNING), onnx_qdq._without_warnings():
        root.handle(root.makeRecord("root", logging.WARNING, path, 1, "simplify it first", (), None))
        root.handle(root.makeRecord("root", logging.ERROR, path, 1, "an error", (), None))
        logging.warning("of the program")
    assert [record.getMessage() for record in caplog.records] == ["an error", "of the program"]
    assert root.level == level and not root.filters


def test_the_file_says_what_it_is() -> None:
    model = usual_model({})
    told = {entry.key: entry.value for entry in export_onnx(model, tiny_calibration()).metadata_props}
    assert told["glance_fast.format"] == "1" and told["glance_fast.version"]
    assert ModelConfig.model_validate_json(told["glance_fast.model"]) == tiny_config()
    assert json.loads(told["glance_fast.calibration"])["threshold"] == tiny_calibration().threshold


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with exports; to be read only."""
    folder = save_tiny(tmp_path_factory.mktemp("exported") / "model", usual_model({"smoothing_sigma": 0.5}))
    for to, precisions in (("onnx", ("fp32", "fp16")), ("openvino", ("fp32", "bf16", "fp16"))):
        for precision in precisions:
            export(folder, to, precision)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with exports of its own."""
    path = save_tiny(tmp_path / "model", usual_model({}))
    export(path, "onnx", "fp32")
    export(path, "openvino", "fp32")
    return path


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_results_do_not_depend_on_the_backend(shared: Path, backend: str) -> None:
    """Images of other sizes are resized by the same code, and scored in a list as one by one."""
    reference, engine = Engine.load(shared, "torch"), Engine.load(shared, backend)
    images = [photo(48, 56), photo(96, 112, 1), photo(37, 53, 2)]
    for image, result, listed in zip(images, map(engine.score, images), engine.score(images), strict=True):
        same(result, reference.score(image))
        same(listed, result)
        assert result.map.shape == image.shape[:2] and isinstance(result.map, np.ndarray)
    tensor = engine.score(torch.from_numpy(images[0]))
    assert isinstance(tensor.map, torch.Tensor)
    same(tensor, engine.score(images[0]))


def threads_agree(engine: Engine) -> None:
    """What four threads score at the same time is what one scores."""
    images = [photo(48, 56, seed) for seed in range(12)]
    expected = [engine.score(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for found, result in zip(pool.map(engine.score, images), expected, strict=True):
                same(found, result)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_any_thread_may_score(shared: Path, backend: str) -> None:
    threads_agree(Engine.load(shared, backend))


def test_a_folder_without_weights_runs_its_exports(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    assert Engine.load(folder).backend.name == "openvino"
    with pytest.raises(ModelFolderError, match=WEIGHTS):
        Engine.load(folder, "torch")


@pytest.mark.parametrize("backend, precision", [("openvino", "bf16"), ("openvino", "fp16"), ("onnxruntime", "fp16")])
def test_lower_precision_is_near(shared: Path, backend: str, precision: str) -> None:
    if precision == "bf16" and not multiplies_bfloat16():
        pytest.skip("this CPU multiplies no bfloat16")
    reference = Engine.load(shared, "torch").score(photo(48, 56))
    found = Engine.load(shared, backend, precision=precision).score(photo(48, 56))
    assert 0 < relative_error(found.map, reference.map) < tolerance("output", precision)


@pytest.mark.parametrize("changes", MODELS[4:6], ids=str)
def test_half_floats_stay_finite_on_extreme_images(changes: dict[str, Any]) -> None:
    """Black, white, and black beside white: what overflows in half floats gives NaN in others' exports."""
    model = usual_model(changes)
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


@pytest.mark.parametrize("bfloat16", [True, False])
def test_bfloat16_runs_where_the_cpu_has_it_and_is_refused_where_not(
    shared: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, bfloat16: bool
) -> None:
    """OpenVINO would compute in float32 there and not say so."""
    monkeypatch.setattr("glance_fast.backends.openvino_backend.multiplies_bfloat16", lambda: bfloat16)
    logging.getLogger("glance_fast").propagate = True
    with caplog.at_level(logging.WARNING, "glance_fast"):
        assert (("openvino", "bf16") in runnable(shared)) == bfloat16
    told = [record.getMessage() for record in caplog.records]
    if bfloat16:
        assert Engine.load(shared, precision="bf16").backend.device_description == "cpu at bf16" and not told
        return
    assert told[0].startswith("openvino at bf16 is left out: this CPU multiplies no bfloat16") and len(told) == 1
    for backend in ("auto", "openvino"):
        with pytest.raises(BackendError, match=r"'bf16' was asked for; this CPU .* use 'fp32', .*--precision fp32"):
            Engine.load(shared, backend, precision="bf16")


def test_auto_takes_an_export_and_says_so(shared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("glance_fast").propagate = True
    with caplog.at_level(logging.INFO, "glance_fast"):
        assert Engine.load(shared).backend.name == "openvino"
        assert Engine.load(save_tiny(tmp_path / "model", tiny_model())).backend.name == "torch"
    chosen = [record.getMessage() for record in caplog.records]
    assert chosen[0] == "backend auto: openvino on cpu at fp32"
    with pytest.raises(BackendError, match="make one where the model was trained, with: glance-fast export"):
        Engine.load(tmp_path / "model", precision="bf16")


def test_the_loop_is_torchs(shared: Path) -> None:
    with pytest.raises(BackendError, match=r"backend='torch'"):
        Engine.load(shared, "openvino").score(photo(48, 56), method="loop")


@pytest.mark.parametrize(
    "arguments, says",
    [
        ({"backend": "openvino", "precision": "int8"}, r"has openvino at fp32, .*--to openvino --precision int8"),
        ({"backend": "onnxruntime", "precision": "int8"}, r"has onnx at fp32, onnx at fp16; make it"),
        ({"backend": "openvino", "device": "cuda"}, r"runs on the CPU"),
        ({"backend": "torch", "precision": "bf16"}, r"'torch' runs at fp32"),
        ({"precision": "fp8"}, r"unknown precision 'fp8'; legal are bf16, fp16, fp32, int8"),
        ({"backend": "torch", "streams": 2}, r"'torch' has one stream, and 2 were asked for; use 'openvino' or"),
        ({"backend": "openvino", "streams": 0}, r"0 streams were asked for; legal are 1 to \d+, the cores"),
        ({"backend": "onnxruntime", "streams": 10_000}, r"10000 streams were asked for; legal are 1 to \d+, the cores"),
    ],
)
def test_what_is_not_there_says_what_to_run(shared: Path, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(BackendError, match=says):
        Engine.load(shared, **arguments)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_two_streams_score_what_one_does_in_its_order(
    shared: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glance_fast.backends.registry.cpu_threads", lambda: 2)
    one, two, few = (Engine.load(shared, backend, streams=streams) for streams in (1, 2, None))
    assert (one.backend.streams, two.backend.streams, few.backend.streams) == (1, 2, 2)
    assert two.backend.device_description == f"{one.backend.device_description}, 2 streams"
    images = [photo(48 + seed, 56, seed) for seed in range(11)]
    expected = [one.score(image) for image in images]
    for found in (two.score(images), [*two.stream(iter(images))], [two.score(image) for image in images]):
        for mine, reference in zip(found, expected, strict=True):
            same(mine, reference)
    with pytest.raises(ImageError, match="smaller than one"):
        two.score([*images, images[0][:9]])


@pytest.mark.parametrize("backend, suffix", [("openvino", ".xml"), ("openvino", ".bin"), ("onnxruntime", ".onnx")])
def test_a_damaged_export_is_named(folder: Path, backend: str, suffix: str) -> None:
    form = "onnx" if suffix == ".onnx" else "openvino"
    path = export_path(folder, form, "fp32").with_suffix(suffix)
    whole = path.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFolderError, match=rf"{path.name} .*make it again with: glance-fast export"):
            Engine.load(folder, backend)
    path.unlink()
    with pytest.raises(ModelFolderError, match=path.name):
        Engine.load(folder, backend)


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"format": 2, "version": "9.9"}, "format 2, written by glance_fast 9.9"),
        ({"precision": "bf16"}, "an export to openvino at bf16"),
        ({"model": "0" * 64}, "made from other weights"),
        ({"sha256": {".py": "0"}}, "no file"),
        ({"sha256": {"a": "0"}}, "an export to openvino has no file 'a'; make it again with: glance-fast export"),
        ({"sha256": {"/../x": "0"}}, "an export to openvino has no file '/../x'"),
        ({"sha256": {"": "0"}}, "an export to openvino has no file ''"),
        ({"more": 1}, "no record of an export: more"),
        ({"format": "one"}, "no record of an export: format"),
    ],
)
def test_a_foreign_newer_or_stale_record_is_named(folder: Path, changes: dict[str, Any], says: str) -> None:
    path = export_path(folder, "openvino", "fp32")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ModelFolderError, match=says):
        Engine.load(folder, "openvino")


@pytest.mark.parametrize("suffix", [".xml", ".bin"])
def test_a_record_without_a_file_of_its_format_names_the_file(folder: Path, suffix: str) -> None:
    path = export_path(folder, "openvino", "fp32")
    record = json.loads(path.read_text())
    del record["sha256"][suffix]
    path.write_text(json.dumps(record))
    with pytest.raises(ModelFolderError, match=f"does not list openvino-fp32{suffix}; make it again with: glance-fast"):
        Engine.load(folder, "openvino")


@pytest.mark.parametrize("backend, suffix", [("openvino", ".xml"), ("onnxruntime", ".onnx")])
def test_a_graph_that_no_runtime_reads_is_named(folder: Path, backend: str, suffix: str) -> None:
    import hashlib

    path = export_path(folder, {"openvino": "openvino", "onnxruntime": "onnx"}[backend], "fp32")
    path.with_suffix(suffix).write_bytes(b"no graph")
    record = json.loads(path.read_text())
    record["sha256"][suffix] = hashlib.sha256(b"no graph").hexdigest()
    path.write_text(json.dumps(record))
    with pytest.raises(ModelFolderError, match="cannot read this graph"):
        Engine.load(folder, backend)


@pytest.mark.parametrize("package, backend", [("openvino", "openvino"), ("onnxruntime", "onnxruntime")])
def test_a_missing_package_names_what_to_install(
    shared: Path, package: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"glance_fast.backends.{backend}_backend", raising=False)
    with pytest.raises(MissingDependencyError, match=f"needs the package {package!r}; install it with: pip install"):
        Engine.load(shared, backend)


def test_the_package_offers_the_export() -> None:
    assert glance_fast.export_model is export and "export_model" in glance_fast.__all__


def test_impossible_exports_are_refused(folder: Path) -> None:
    with pytest.raises(BackendError, match="unknown form 'tflite'; legal are onnx, openvino"):
        export(folder, "tflite")
    with pytest.raises(BackendError, match="onnx is exported at fp32, fp16, int8, and 'int4'"):
        export(folder, "onnx", "int4")
    with pytest.raises(ConfigError, match="--data"):
        export(folder, "openvino", "int8")


@pytest.mark.parametrize("backend, form", [("openvino", "openvino"), ("onnxruntime", "onnx")])
def test_int8_is_near_and_smaller_steps_are_kept(tmp_path: Path, backend: str, form: str) -> None:
    """Blocks in 8 bits, ranges from photographs: coarse, and still the same picture."""
    folder = save_tiny(tmp_path / "model", usual_model({"global_channels": (16, 24, 32, 32)}))
    for seed in range(24):
        (tmp_path / "data").mkdir(exist_ok=True)
        Image.fromarray(photo(48, 56, seed)).save(tmp_path / "data" / f"{seed}.png")
    export(folder, form, "int8", tmp_path / "data")
    image = photo(48, 56, 99)
    reference = Engine.load(folder, "torch").score(image).map
    engine = Engine.load(folder, backend, precision="int8")
    found = engine.score(image).map
    assert 0 < relative_error(found, reference) < tolerance("output", "int8")
    kind, suffix = {"openvino": (b"FakeQuantize", ".xml"), "onnx": (b"DequantizeLinear", ".onnx")}[form]
    assert kind in export_path(folder, form, "int8").with_suffix(suffix).read_bytes()
    assert engine.backend.device_description == "cpu at int8"


def test_modelopt_gives_each_column_of_a_blocks_weights_a_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its graph as TensorRT reads it: constant weights by their columns, what is multiplied by one scale."""
    monkeypatch.setattr("glance_fast.export.graph.pipeline.refine_bands", partial(refine_bands, min_keys=3))
    model = usual_model({"global_channels": (16, 24, 32, 32)})
    images = photos(model, 24)
    graph = export_onnx(model, tiny_calibration())
    quantized = quantize_int8_for_tensorrt(graph, [*images[1:]])
    assert {node.op_type for node in quantized.graph.node} <= TENSORRT | {"QuantizeLinear", "DequantizeLinear"}
    assert quantized.metadata_props == graph.metadata_props
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in quantized.graph.initializer}
    made_by = {name: node for node in quantized.graph.node for name in node.output}
    products = [node for node in quantized.graph.node if "blocks/" in node.name and node.op_type == "MatMul"]
    assert len(products) == sum("blocks/" in node.name for node in graph.graph.node)
    small = [node for node in products if node.input[1] in constants and min(constants[node.input[1]].shape) < 16]
    rest = [node for node in products if node not in small]
    assert len(rest) > 10
    for product in rest:
        windows, weights = (made_by[name] for name in product.input)
        assert {windows.op_type, weights.op_type} == {"DequantizeLinear"}
        scale, columns = constants[windows.input[1]], constants[weights.input[1]]
        kept = made_by.get(weights.input[0], weights)
        assert scale.shape == () and columns.shape == constants[kept.input[0]].shape[1:]
        assert not any(constants[name].any() for name in (windows.input[2], weights.input[2])), "not symmetric"
    # As the graph is written: some CPUs' own 8-bit products overflow.
    plain = onnxruntime.SessionOptions()
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    found = onnxruntime.InferenceSession(quantized.SerializeToString(), plain).run(["anomaly_grid"], {"image": images})
    reference = loop_grids(model, images)
    assert 0 < relative_error(found[0], reference) < tolerance("output", "int8")


def test_8_bits_for_tensorrt_say_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = usual_model({"global_channels": (16, 24, 32, 32)})
    graph, images = export_onnx(model, tiny_calibration()), [*photos(model, 1)]
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


def test_the_parity_report_compares_every_form(shared: Path, tmp_path: Path) -> None:
    paths = []
    for seed in range(4):
        paths.append(tmp_path / f"{seed}.png")
        Image.fromarray(photo(60, 70, seed)).save(paths[-1])
    rows = {row.name: row for row in verify(shared, paths, loop_images=2, progress=False)}
    forms = ["openvino fp32", "openvino bf16", "openvino fp16", "onnxruntime fp32", "onnxruntime fp16"]
    here = [name for name in forms if name != "openvino bf16" or multiplies_bfloat16()]
    assert list(rows) == ["loop against torch", "torch", *here]
    assert rows["loop against torch"].images == 2 and rows["torch"].largest == 0
    for name in ("loop against torch", "openvino fp32", "onnxruntime fp32"):
        assert max(rows[name].largest, rows[name].score) < rows[name].within == tolerance("trained map", "fp32")
    assert all(row.ms > 0 and row.mean <= row.largest for row in rows.values())
    assert rows["openvino fp32"].rank == 1
    if "openvino bf16" in here:
        assert rows["openvino bf16"].largest > rows["openvino fp16"].largest
    assert read_image(paths[0]).shape == (60, 70, 3)


def test_the_base_install_scores_without_pytorch(shared: Path, tmp_path: Path) -> None:
    """A new environment, made from the package index, with the base install and nothing else in it."""
    reach = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(tmp_path), "typer"]
    if subprocess.run(reach, capture_output=True, check=False).returncode:
        pytest.skip("no package index can be reached to make an environment from")
    python = install(tmp_path / "base")
    packages = {name.lower() for name in sizes(python)}
    assert {"glance-fast", "openvino", "numpy"} <= packages and not {"torch", "onnx", "scipy"} & packages
    code = (
        "import sys, numpy as np\n"
        "from glance_fast import Engine\n"
        f"result = Engine.load({str(shared)!r}).score(np.load({str(tmp_path / 'image.npy')!r}))\n"
        "print(result.score, result.map.shape)\n"
        "from glance_fast.errors import GlanceError\n"
        "for backend in ('torch', 'onnxruntime', 'tensorrt'):\n"
        "    try:\n"
        f"        Engine.load({str(shared)!r}, backend)\n"
        "    except GlanceError as error:\n"
        "        print(error)\n"
    )
    np.save(tmp_path / "image.npy", photo(96, 112))
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    told, *errors = done.stdout.splitlines()
    score, shape = told.split(" ", 1)
    assert shape == "(96, 112)"
    assert float(score) == pytest.approx(Engine.load(shared, "torch").score(photo(96, 112)).score, rel=1e-5)
    for error, extra in zip(errors, ("train", "onnxruntime", "tensorrt"), strict=True):
        assert f"pip install '.[{extra}]' (in a checkout" in error
    Image.fromarray(photo(96, 112)).save(tmp_path / "photo.png")
    score_it = [str(python.with_name("glance-fast")), "score", str(tmp_path / "photo.png"), "--model", str(shared)]
    done = subprocess.run(
        [*score_it, "--output", str(tmp_path / "out")], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert read_image(tmp_path / "out" / "overlays" / "photo.jpg").ndim == 3


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_program_in_cpp_gives_the_same_score(shared: Path, tmp_path: Path) -> None:
    """The example in C++, compiled against the headers that OpenVINO's own package holds."""
    runtime = Path(openvino.__path__[0])
    (library,) = runtime.glob("libs/libopenvino.so.*")
    program = tmp_path / "score"
    source = ROOT / "examples" / "score.cpp"
    where = [f"-I{runtime / 'include'}", str(library), f"-Wl,-rpath,{runtime / 'libs'}"]
    subprocess.run(["g++", "-std=c++17", str(source), *where, "-o", str(program)], check=True)
    Image.fromarray(photo(48, 56)).save(tmp_path / "photo.ppm")
    Image.fromarray(photo(40, 56)).save(tmp_path / "other.ppm")
    model = export_path(shared, "openvino", "fp32").with_suffix(".xml")
    done = subprocess.run([program, model, tmp_path / "photo.ppm"], capture_output=True, text=True, check=True)
    expected = Engine.load(shared, "openvino").score(photo(48, 56))
    score, verdict = done.stdout.split()
    assert float(score) == pytest.approx(expected.score, rel=1e-6)
    assert verdict == ("anomalous" if expected.is_anomalous else "normal")
    done = subprocess.run([program, model, tmp_path / "other.ppm"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "is 40x56, the model sees 48x56" in done.stderr


def test_openvino_never_computes_in_a_lower_precision_unasked(shared: Path) -> None:
    backend = Engine.load(shared, "openvino").backend
    hint = backend._compiled.get_property("INFERENCE_PRECISION_HINT")  # type: ignore[attr-defined]
    assert hint == openvino.Type.f32
    assert EXPORT_FORMATS["openvino"][0] == "fp32"
