"""The backend of TensorRT on a faked device and library: numbers, threads, TensorRT engines built elsewhere."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glance_fast.engine import Engine
from glance_fast.errors import BackendError, MissingDependencyError, ModelFolderError
from glance_fast.export.export import export
from glance_fast.export.tensorrt.options import TensorRtOptions
from glance_fast.storage.export_record import export_path
from tests.helpers import fake_tensorrt
from tests.helpers.fake_cuda import FakeBuffer, FakeStream, view
from tests.helpers.fake_machine import Machine
from tests.helpers.images import model_images, textured_image
from tests.helpers.models import fitted_model
from tests.helpers.reference import loop_grids
from tests.helpers.tolerances import assert_close, assert_same_result


def test_the_engine_gives_the_loops_numbers_in_batches_and_one_by_one(engine_folder: Path) -> None:
    backend = Engine.load(engine_folder, "tensorrt", "cuda").backend
    model = fitted_model({"smoothing_sigma": 0.5})
    images = model_images(model, 8)
    reference = loop_grids(model, images)
    for count in (1, 2, 3, 8):
        actual = np.stack(backend.grids(list(images[:count])))
        assert_close(actual, reference[:count], torch.float32)


def test_any_thread_may_score(engine_folder: Path) -> None:
    engine = Engine.load(engine_folder, "tensorrt", "cuda")
    images = [textured_image(48, 56, seed) for seed in range(10)]
    expected = [engine.score(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for actual, result in zip(pool.map(engine.score, images), expected, strict=True):
            assert_same_result(actual, result)


def test_a_copied_engine_is_loaded_anew(engine_folder: Path) -> None:
    engine = Engine.load(engine_folder, device="cuda")
    other = copy.deepcopy(engine)
    assert (other.backend.name, other.backend.device_description) == ("tensorrt", "cuda at fp32")
    assert_same_result(other.score(textured_image(48, 56)), engine.score(textured_image(48, 56)))


def test_a_program_may_run_the_engine_on_its_memory(engine_folder: Path) -> None:
    backend: Any = Engine.load(engine_folder, "tensorrt", "cuda").backend
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
    with pytest.raises(BackendError, match="got addresses of image"):
        backend.enqueue({"image": 1}, 1, stream.handle, context)
    with pytest.raises(BackendError, match="1 to 3 images per launch, got 4"):
        backend.enqueue(addresses, 4, stream.handle, context)
    with pytest.raises(BackendError, match="refuses the address 0x0 of 'image'"):
        backend.enqueue(addresses | {"image": 0}, 1, stream.handle, context)


def test_auto_takes_the_engine_on_a_gpu(engine_folder: Path) -> None:
    engine = Engine.load(engine_folder, device="cuda")
    assert engine.backend.name == "tensorrt" and engine.backend.device_description == "cuda at fp32"
    assert Engine.load(engine_folder).backend.name == "torch"


def test_an_engine_for_any_version_runs_in_the_lean_runtime(engine_folder: Path, machine: Machine) -> None:
    export(engine_folder, "tensorrt", tensorrt=TensorRtOptions(any_version=True))
    with pytest.raises(MissingDependencyError, match="tensorrt_lean"):
        Engine.load(engine_folder, "tensorrt", "cuda")
    machine.version = "11.9.0.1"
    machine.install("tensorrt_lean")
    assert Engine.load(engine_folder, "tensorrt", "cuda").score(textured_image(48, 56)).map.shape == (48, 56)
    machine.version = "12.0.0.1"
    machine.install("tensorrt_lean")
    with pytest.raises(ModelFolderError, match=r"built with TensorRT 11\.4\.0\.106, and this is 12\.0\.0\.1"):
        Engine.load(engine_folder, "tensorrt", "cuda")


def other_version(machine: Machine) -> None:
    machine.version = "11.5.0.1"


def other_gpu(machine: Machine) -> None:
    machine.gpus = [("NVIDIA H100", (9, 0))]


@pytest.mark.parametrize(
    "change, message",
    [
        (other_version, r"with TensorRT 11\.4\.0\.106, and this is 11\.5\.0\.1; build it here with: glance-fast"),
        (other_gpu, r"NVIDIA L4 \(compute capability 8\.9\), and this is NVIDIA H100 \(9\.0\); build it here with"),
    ],
)
def test_an_engine_from_elsewhere_names_the_command_that_builds_it(
    engine_folder: Path, machine: Machine, change: Callable[[Machine], None], message: str
) -> None:
    change(machine)
    machine.install()
    with pytest.raises(ModelFolderError, match=message):
        Engine.load(engine_folder, "tensorrt", "cuda")


def test_the_command_that_rebuilds_an_engine_has_its_options(engine_folder: Path, machine: Machine) -> None:
    export(engine_folder, "tensorrt", tensorrt=TensorRtOptions(any_gpu=True))
    machine.version = "10.16.1.11"
    machine.install()
    with pytest.raises(ModelFolderError, match=r"--to tensorrt --precision fp32 --any-gpu$"):
        Engine.load(engine_folder, "tensorrt", "cuda")


def test_an_engine_for_any_gpu_runs_from_ampere_on(engine_folder: Path, machine: Machine) -> None:
    export(engine_folder, "tensorrt", tensorrt=TensorRtOptions(any_gpu=True))
    other_gpu(machine)
    machine.install()
    assert Engine.load(engine_folder, "tensorrt", "cuda").score(textured_image(48, 56)).map.shape == (48, 56)
    machine.gpus = [("Tesla T4", (7, 5))]
    machine.install()
    with pytest.raises(ModelFolderError, match="this is Tesla T4"):
        Engine.load(engine_folder, "tensorrt", "cuda")


@pytest.mark.parametrize("changes", [{}, {"tensorrt": "11"}, None])
def test_a_record_that_does_not_say_what_it_was_built_for(engine_folder: Path, changes: dict[str, str] | None) -> None:
    path = export_path(engine_folder, "tensorrt", "fp32")
    record = json.loads(path.read_text())
    built = record["built_for"] | {"batch": "many"} if changes is None else changes
    path.write_text(json.dumps(record | {"built_for": built}))
    with pytest.raises(ModelFolderError, match="does not say what its TensorRT engine was built for; build it here"):
        Engine.load(engine_folder, "tensorrt", "cuda")


def test_an_engine_that_tensorrt_refuses_is_named(engine_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_tensorrt.Runtime, "deserialize_cuda_engine", lambda self, data: None)
    with pytest.raises(ModelFolderError, match="TensorRT cannot read this engine: it gives no reason"):
        Engine.load(engine_folder, "tensorrt", "cuda")
    monkeypatch.undo()


def test_a_missing_gpu_or_package_says_what_to_do(engine_folder: Path, machine: Machine) -> None:
    with pytest.raises(BackendError, match=r"device 'cpu' is no GPU; legal are cuda and cuda:<index>"):
        Engine.load(engine_folder, "tensorrt")
    with pytest.raises(BackendError, match=r"'cuda:1' was requested, but there are 1 CUDA devices"):
        Engine.load(engine_folder, "tensorrt", "cuda:1")
    machine.library.fails["cuStreamEndCapture"] = 901
    with pytest.raises(BackendError, match="cuStreamEndCapture failed with status 901"):
        Engine.load(engine_folder, "tensorrt", "cuda").score(textured_image(48, 56))
    machine.gpus = []
    machine.install()
    with pytest.raises(BackendError, match="no CUDA device can be used: cuInit failed"):
        Engine.load(engine_folder, "tensorrt", "cuda")
    machine.patch.setitem(sys.modules, "pycuda.driver", None)
    machine.patch.setitem(sys.modules, "pycuda", None)
    machine.patch.delitem(sys.modules, "glance_fast.backends.cuda_driver.device")
    message = r"'pycuda'; install it with: pip install '\.\[tensorrt\]'"
    with pytest.raises(MissingDependencyError, match=message):
        Engine.load(engine_folder, "tensorrt", "cuda")
    with pytest.raises(MissingDependencyError, match=message):
        export(engine_folder, "tensorrt")
