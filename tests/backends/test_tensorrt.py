"""TensorRT, where there is none: all that drives it, on a fake device and a fake library with the real one's names."""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from importlib.machinery import ModuleSpec
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from glance_fast.engine import Engine
from glance_fast.errors import BackendError, ConfigError, MissingDependencyError, ModelFolderError
from glance_fast.evaluation.tolerances import relative_error, tolerance
from glance_fast.export.export import export
from glance_fast.export.tensorrt.options import TensorRtOptions
from glance_fast.kernels.gpu import ahead_of_time
from glance_fast.storage.export_record import export_path
from glance_fast.storage.model_folder import WEIGHTS
from tests.helpers import fake_plugin, fake_tensorrt
from tests.helpers.compilers import compile_in_process
from tests.helpers.fake_cuda import Driver, FakeBuffer, FakeStream, Library, view
from tests.helpers.images import model_images, textured_image
from tests.helpers.models import PRETRAINED, fitted_model, save_tiny
from tests.helpers.reference import loop_grids
from tests.helpers.tolerances import assert_close, assert_same_result

ROOT = Path(__file__).resolve().parents[2]
API: dict[str, Any] = json.loads((ROOT / "tests" / "helpers" / "tensorrt_api.json").read_text())
OURS = tuple(
    f"glance_fast.{name}"
    for name in (
        "export.tensorrt.build",
        "export.tensorrt.plugins",
        "backends.tensorrt_backend",
        "backends.cuda_driver.device",
    )
)


class Machine:
    """One machine with GPUs: what tests change of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch = monkeypatch
        self.library = Library()
        self.gpus = [("NVIDIA L4", (8, 9))]
        self.version = "11.4.0.106"

    def install(self, name: str = "tensorrt") -> None:
        """Put TensorRT, under its own name or the lean one's, and PyCUDA where imports find them."""
        trt = ModuleType(name)
        for key, value in vars(fake_tensorrt).items():
            if not key.startswith("__"):
                setattr(trt, key, value)
        trt.__version__ = self.version  # type: ignore[attr-defined]
        trt.__spec__ = ModuleSpec(name, None)
        pycuda = ModuleType("pycuda")
        pycuda.driver = Driver(self.gpus)  # type: ignore[attr-defined]
        trt.plugin = fake_plugin  # type: ignore[attr-defined]
        self.patch.setitem(sys.modules, f"{name}.plugin", fake_plugin)
        self.patch.setattr(ahead_of_time, "compile_ahead", fake_plugin.compile_ahead)
        fake_plugin.described.clear()
        fake_plugin.implemented.clear()
        for module in (trt, pycuda):
            self.patch.setitem(sys.modules, module.__name__, module)
        self.patch.setitem(sys.modules, "pycuda.driver", pycuda.driver)
        for ours in OURS:  # they hold what they imported
            self.patch.delitem(sys.modules, ours, raising=False)
        self.patch.setattr("glance_fast.backends.cuda_driver.capture.driver_library", lambda: self.library)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(monkeypatch)
    made.install()
    return made


@pytest.fixture
def folder(tmp_path: Path, machine: Machine) -> Path:
    """A model with a plan for the machine's GPU."""
    path = save_tiny(tmp_path / "model", fitted_model({"smoothing_sigma": 0.5}))
    export(path, "tensorrt", tensorrt=TensorRtOptions(batch=3))
    return path


def test_the_plan_gives_the_loops_numbers_in_batches_and_one_by_one(folder: Path) -> None:
    backend = Engine.load(folder, "tensorrt", "cuda").backend
    model = fitted_model({"smoothing_sigma": 0.5})
    images = model_images(model, 8)
    reference = loop_grids(model, images)
    for count in (1, 2, 3, 8):
        found = np.stack(backend.grids(list(images[:count])))
        assert_close(found, reference[:count], torch.float32)


def test_any_thread_may_score(folder: Path) -> None:
    engine = Engine.load(folder, "tensorrt", "cuda")
    images = [textured_image(48, 56, seed) for seed in range(10)]
    expected = [engine.score(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for found, result in zip(pool.map(engine.score, images), expected, strict=True):
            assert_same_result(found, result)


def test_a_program_may_run_it_on_its_own_memory(folder: Path) -> None:
    backend: Any = Engine.load(folder, "tensorrt", "cuda").backend
    images = model_images(fitted_model({}), 2)
    with backend._cuda.current():
        stream = FakeStream()
        sizes = {"image": images.nbytes, "pred_score": 8, "pred_label": 2, "anomaly_map": images.nbytes * 4 // 3}
        sizes |= {"pred_mask": images.nbytes // 3, "anomaly_grid": 2 * 5 * 6 * 4}
        memory = {name: FakeBuffer(size) for name, size in sizes.items()}
        view(int(memory["image"]), images.shape, np.uint8)[...] = images
        addresses = {name: int(buffer) for name, buffer in memory.items()}
        context = backend.new_context()
        backend.enqueue(addresses, 2, stream.handle, context)
        before = view(addresses["anomaly_grid"], (2, 5, 6), np.float32).copy()
        stream.synchronize()
        after = view(addresses["anomaly_grid"], (2, 5, 6), np.float32)
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(after, backend.grids(list(images)))
    with pytest.raises(BackendError, match="addresses were given of image"):
        backend.enqueue({"image": 1}, 1, stream.handle, context)
    with pytest.raises(BackendError, match="1 to 3 images a launch, and 4"):
        backend.enqueue(addresses, 4, stream.handle, context)
    with pytest.raises(BackendError, match="refuses the address 0x0 of 'image'"):
        backend.enqueue(addresses | {"image": 0}, 1, stream.handle, context)


def test_auto_takes_the_plan_on_a_gpu(folder: Path) -> None:
    engine = Engine.load(folder, device="cuda")
    assert engine.backend.name == "tensorrt" and engine.backend.device_description == "cuda at fp32"
    assert Engine.load(folder).backend.name == "torch"


def test_it_builds_from_the_onnx_file_without_the_weights(folder: Path) -> None:
    for precision in ("fp32", "fp16"):
        export(folder, "onnx", precision)
    (folder / WEIGHTS).unlink()
    export_path(folder, "tensorrt", "fp32").unlink()
    export(folder, "tensorrt")
    reference = Engine.load(folder, "tensorrt", "cuda").score(textured_image(48, 56))
    export(folder, "tensorrt", "fp16")
    half = Engine.load(folder, "tensorrt", "cuda", "fp16").score(textured_image(48, 56))
    assert 0 < abs(half.score - reference.score) < 0.01 * abs(reference.score)


def test_8_bits_are_modelopts_where_photographs_are_given_and_the_onnx_files_elsewhere(
    machine: Machine, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for seed in range(8):
        Image.fromarray(textured_image(48, 56, seed)).save(data / f"{seed}.png")
    folder = save_tiny(tmp_path / "model", fitted_model({"global_channels": (16, 24, 32, 32)}))
    reference = Engine.load(folder, "torch").score(textured_image(48, 56)).map
    export(folder, "onnx", "int8", data)
    maps = []
    for given in (None, data):
        export(folder, "tensorrt", "int8", given)
        maps.append(Engine.load(folder, "tensorrt", "cuda", "int8").score(textured_image(48, 56)).map)
        assert 0 < relative_error(maps[-1], reference) < tolerance("output", "int8")
    by_onnx_runtime = Engine.load(folder, "onnxruntime", precision="int8").score(textured_image(48, 56)).map
    np.testing.assert_allclose(maps[0], by_onnx_runtime, rtol=0, atol=1e-6)
    assert not np.array_equal(maps[0], maps[1])


PLUGIN_MODELS: list[dict[str, Any]] = [
    {"smoothing_sigma": 0.5},
    {"image_size": (25, 22), "patch": 9, "stride": 7, "readout": 2, "global_convs": 2, "global_channels": (5, 70)},
    {"image_size": (98, 115), **PRETRAINED, "context_features": 5},
]


@pytest.mark.parametrize("changes", PLUGIN_MODELS, ids=str)
def test_a_plan_of_plugins_gives_the_loops_numbers(machine: Machine, tmp_path: Path, changes: dict[str, Any]) -> None:
    """Kernels as TensorRT launches them: shapes, grids, constants and the order of arguments, in the interpreter."""
    model = fitted_model(changes)
    folder = save_tiny(tmp_path / "model", model)
    batch = 2 if changes == PLUGIN_MODELS[1] else 1
    export(folder, "tensorrt", tensorrt=TensorRtOptions(batch), plugins=True)
    images = model_images(model, batch)
    backend = Engine.load(folder, "tensorrt", "cuda").backend
    assert backend.device_description == "cuda at fp32, with plugins"
    assert_close(np.stack(backend.grids(list(images))), loop_grids(model, images), torch.float32)
    nodes = {name.split("::")[1] for name in fake_plugin.implemented}
    assert nodes == {"partial_conv_base", "partial_conv_entries", "max_pool_entries", "score"}


def test_a_plan_of_plugins_in_half_floats_is_near_the_loop(machine: Machine, tmp_path: Path) -> None:
    model = fitted_model(PLUGIN_MODELS[0])
    folder = save_tiny(tmp_path / "model", model)
    export(folder, "tensorrt", "fp16", tensorrt=TensorRtOptions(1), plugins=True)
    images = model_images(model, 1)
    found = np.stack(Engine.load(folder, "tensorrt", "cuda", "fp16").backend.grids(list(images)))
    apart = relative_error(torch.from_numpy(found), torch.from_numpy(loop_grids(model, images)))
    assert tolerance("output", "fp32") < apart < tolerance("output", "fp16")


@pytest.mark.parametrize("target", [80, 90, 120])
def test_the_plugins_kernels_take_what_tensorrt_passes(target: int, tmp_path: Path) -> None:
    """Compiled as for a plan: each entry has a parameter an argument, an assembler takes it, 48 KB are enough."""
    rows = compile_in_process(["-m", "tests.helpers.plugin_kernels", str(target)], tmp_path)
    assert {row[0] for row in rows} == {"base_kernel", "entries_kernel", "pool_kernel", "score_kernel"}
    for name, ptx, passed, shared, registers in rows:
        entry = re.search(rf"\.entry {name}\((.*?)\)", ptx, re.DOTALL)
        assert entry is not None and entry[1].count(".param") == passed
        assert shared <= 48 * 1024 and registers


def test_plugins_that_cannot_be_are_refused(folder: Path, machine: Machine) -> None:
    with pytest.raises(ConfigError, match="compiled for the GPU at hand"):
        export(folder, "tensorrt", tensorrt=TensorRtOptions(any_gpu=True), plugins=True)
    with pytest.raises(ConfigError, match="plugins compute in fp32 or fp16"):
        export(folder, "tensorrt", "int8", plugins=True)
    with pytest.raises(ConfigError, match="openvino and tensorrt know, and onnx"):
        export(folder, "onnx", plugins=True)
    machine.patch.setattr(fake_tensorrt, "NetworkDefinitionCreationFlag", IntEnum("Flags", {"STRONGLY_TYPED": 0}))
    machine.install()
    with pytest.raises(BackendError, match=r"TensorRT 11\.4\.0\.106 takes no plugins"):
        export(folder, "tensorrt", plugins=True)


def test_what_it_was_asked_for_reaches_the_builder(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "timings"
    options = TensorRtOptions(4, any_version=True, any_gpu=True, timing_cache=cache)
    for held in (b"t", b"tt"):
        export(folder, "tensorrt", tensorrt=options)
        assert cache.read_bytes() == held
    config = fake_tensorrt.Builder.last
    assert config.profiles[0].shapes == {"image": ((1, 48, 56, 3), (1, 48, 56, 3), (4, 48, 56, 3))}
    assert [flag.name for flag in config.set] == ["VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"]
    assert config.hardware_compatibility_level.name == "AMPERE_PLUS"
    export(folder, "tensorrt")
    assert fake_tensorrt.Builder.last.set == []
    assert fake_tensorrt.Builder.last.hardware_compatibility_level.name == "NONE"


def test_a_plan_for_any_version_runs_in_the_lean_runtime(folder: Path, machine: Machine) -> None:
    export(folder, "tensorrt", tensorrt=TensorRtOptions(any_version=True))
    with pytest.raises(MissingDependencyError, match="tensorrt_lean"):
        Engine.load(folder, "tensorrt", "cuda")
    machine.version = "11.9.0.1"
    machine.install("tensorrt_lean")
    assert Engine.load(folder, "tensorrt", "cuda").score(textured_image(48, 56)).map.shape == (48, 56)
    machine.version = "12.0.0.1"
    machine.install("tensorrt_lean")
    with pytest.raises(ModelFolderError, match=r"built with TensorRT 11\.4\.0\.106, and this is 12\.0\.0\.1"):
        Engine.load(folder, "tensorrt", "cuda")


def other_version(machine: Machine) -> None:
    machine.version = "11.5.0.1"


def other_gpu(machine: Machine) -> None:
    machine.gpus = [("NVIDIA H100", (9, 0))]


@pytest.mark.parametrize(
    "change, says",
    [
        (other_version, r"with TensorRT 11\.4\.0\.106, and this is 11\.5\.0\.1; build it here with: glance-fast"),
        (other_gpu, r"NVIDIA L4 \(compute capability 8\.9\), and this is NVIDIA H100 \(9\.0\); build it here with"),
    ],
)
def test_a_plan_from_elsewhere_names_the_command_that_builds_it(
    folder: Path, machine: Machine, change: Callable[[Machine], None], says: str
) -> None:
    change(machine)
    machine.install()
    with pytest.raises(ModelFolderError, match=says):
        Engine.load(folder, "tensorrt", "cuda")


def test_the_command_asks_for_what_the_plan_was(folder: Path, machine: Machine) -> None:
    export(folder, "tensorrt", tensorrt=TensorRtOptions(any_gpu=True))
    machine.version = "10.16.1.11"
    machine.install()
    with pytest.raises(ModelFolderError, match=r"--to tensorrt --precision fp32 --any-gpu$"):
        Engine.load(folder, "tensorrt", "cuda")


def test_a_plan_for_any_gpu_runs_from_ampere_on(folder: Path, machine: Machine) -> None:
    export(folder, "tensorrt", tensorrt=TensorRtOptions(any_gpu=True))
    other_gpu(machine)
    machine.install()
    assert Engine.load(folder, "tensorrt", "cuda").score(textured_image(48, 56)).map.shape == (48, 56)
    machine.gpus = [("Tesla T4", (7, 5))]
    machine.install()
    with pytest.raises(ModelFolderError, match="this is Tesla T4"):
        Engine.load(folder, "tensorrt", "cuda")


@pytest.mark.parametrize("changes", [{}, {"tensorrt": "11"}, None])
def test_a_record_that_does_not_say_what_it_was_built_for(folder: Path, changes: dict[str, str] | None) -> None:
    path = export_path(folder, "tensorrt", "fp32")
    record = json.loads(path.read_text())
    built = record["built_for"] | {"batch": "many"} if changes is None else changes
    path.write_text(json.dumps(record | {"built_for": built}))
    with pytest.raises(ModelFolderError, match="does not say what its plan was built for; build it here"):
        Engine.load(folder, "tensorrt", "cuda")


def test_a_plan_that_tensorrt_refuses_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_tensorrt.Runtime, "deserialize_cuda_engine", lambda self, data: None)
    with pytest.raises(ModelFolderError, match="TensorRT cannot read this plan: it gives no reason"):
        Engine.load(folder, "tensorrt", "cuda")
    monkeypatch.undo()


def test_nodes_that_the_parser_refuses_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_tensorrt.OnnxParser, "refused", ("TopK",))
    with pytest.raises(BackendError, match=r"cannot read the graph: node 'TopK_\d+' \(TopK\): no such operator"):
        export(folder, "tensorrt")


def test_what_stops_a_build_is_told(folder: Path, tmp_path: Path, machine: Machine) -> None:
    machine.patch.setattr(fake_tensorrt.Builder, "fails", True)
    with pytest.raises(BackendError, match="cannot build a plan: out of memory"):
        export(folder, "tensorrt")
    cache = tmp_path / "timings"
    cache.write_bytes(b"other gpu")
    with pytest.raises(ConfigError, match="no timing cache of TensorRT 11"):
        export(folder, "tensorrt", tensorrt=TensorRtOptions(timing_cache=cache))
    with pytest.raises(ConfigError, match="batch must be from 1 to 256, got 0"):
        TensorRtOptions(batch=0)
    with pytest.raises(ConfigError, match="are settings of tensorrt, and not of onnx"):
        export(folder, "onnx", tensorrt=TensorRtOptions())

    def no_builder(self: object, logger: object) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    machine.patch.setattr(fake_tensorrt.Builder, "__init__", no_builder)
    with pytest.raises(BackendError, match="cannot build here"):
        export(folder, "tensorrt")


def test_a_missing_gpu_or_package_says_what_to_do(folder: Path, machine: Machine) -> None:
    with pytest.raises(BackendError, match=r"device 'cpu' is no GPU; legal are cuda and cuda:<index>"):
        Engine.load(folder, "tensorrt")
    with pytest.raises(BackendError, match=r"'cuda:1' was asked for and there are 1 CUDA devices"):
        Engine.load(folder, "tensorrt", "cuda:1")
    machine.library.fails["cuStreamEndCapture"] = 901
    with pytest.raises(BackendError, match="cuStreamEndCapture failed with status 901"):
        Engine.load(folder, "tensorrt", "cuda").score(textured_image(48, 56))
    machine.gpus = []
    machine.install()
    with pytest.raises(BackendError, match="no CUDA device can be used: cuInit failed"):
        Engine.load(folder, "tensorrt", "cuda")
    machine.patch.setitem(sys.modules, "pycuda.driver", None)
    machine.patch.setitem(sys.modules, "pycuda", None)
    machine.patch.delitem(sys.modules, "glance_fast.backends.cuda_driver.device")
    wanted = r"'pycuda'; install it with: pip install '\.\[tensorrt\]'"
    with pytest.raises(MissingDependencyError, match=wanted):
        Engine.load(folder, "tensorrt", "cuda")
    with pytest.raises(MissingDependencyError, match=wanted):
        export(folder, "tensorrt")


@pytest.mark.parametrize("version", API)
def test_the_fake_has_the_real_librarys_names_and_parameters(version: str) -> None:
    members, parameters = API[version]["members"], API[version]["parameters"]
    assert set(API[version]["functions"]) == {"nptype"}
    members["Severity"] = members["ILogger.Severity"]
    for name, kind in vars(fake_tensorrt).items():
        if not inspect.isclass(kind) or kind.__module__ != fake_tensorrt.__name__ or name in ("Network", "Reference"):
            continue
        own = {member for member in vars(kind) if not member.startswith("_")} - {"last", "fails", "refused"}
        assert own <= {*members[name], "Severity"}, name
        for member, function in vars(kind).items():
            wanted = parameters.get(f"{name}.{member}")
            if wanted is not None and member in own | {"__init__"} and name != "ParserError":
                taken = list(inspect.signature(function).parameters)
                assert taken == wanted[: len(taken)], f"{name}.{member}"


@pytest.mark.parametrize("version", API)
def test_the_fake_plugins_have_the_real_ones_names_and_parameters(version: str) -> None:
    members, parameters = API[version]["plugin"]["members"], API[version]["plugin"]["parameters"]
    for name, wanted in parameters.items():
        ours = list(inspect.signature(attrgetter(name.removesuffix(".__init__"))(fake_plugin)).parameters)
        assert ours == wanted[: len(ours)], name
    for source in ast.walk(ast.parse((ROOT / "export" / "tensorrt" / "plugins.py").read_text())):
        if isinstance(source, ast.Attribute) and ast.unparse(source.value) == "trtp":
            assert source.attr in members or source.attr in parameters, source.attr


def test_our_code_uses_nothing_that_the_fake_lacks() -> None:
    """What it reads of the module itself; members of objects fail where the fake lacks them."""
    drivers = ("glance_fast/backends/tensorrt_backend", "glance_fast/backends/cuda_driver/tensorrt_log")
    for source in ("export/tensorrt/build", "export/tensorrt/plugins", *drivers):
        for node in ast.walk(ast.parse((ROOT / f"{source}.py").read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("trt", "self._trt"):
                assert node.attr == "__version__" or hasattr(fake_tensorrt, node.attr), f"{source}: {node.attr}"
