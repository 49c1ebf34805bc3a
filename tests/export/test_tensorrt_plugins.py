"""Plugins of a TensorRT engine: kernels as TensorRT launches them, in the interpreter, and compiled."""

from __future__ import annotations

import re
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glance_fast.backends.tolerances import relative_error, tolerance
from glance_fast.engine import Engine
from glance_fast.errors import BackendError, ConfigError
from glance_fast.export.export import export
from glance_fast.export.tensorrt.options import TensorRtOptions
from tests.helpers import fake_plugin, fake_tensorrt
from tests.helpers.compilers import compile_in_process
from tests.helpers.fake_machine import Machine
from tests.helpers.images import model_images
from tests.helpers.models import PRETRAINED, fitted_model, save_tiny
from tests.helpers.reference import loop_grids
from tests.helpers.tolerances import assert_close

PLUGIN_MODELS: list[dict[str, Any]] = [
    {"image_size": (32, 37), "smoothing_sigma": 0.5},
    {"image_size": (17, 19), "patch": 9, "stride": 7, "readout": 2, "global_convs": 2, "global_channels": (5, 70)},
    {"image_size": (98, 105), **PRETRAINED, "border_padding": 12, "context_features": 5},
]


@pytest.mark.parametrize("changes", PLUGIN_MODELS, ids=str)
def test_an_engine_of_plugins_gives_the_loops_numbers(
    machine: Machine, tmp_path: Path, changes: dict[str, Any]
) -> None:
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


def test_an_engine_of_plugins_in_half_floats_is_near_the_loop(machine: Machine, tmp_path: Path) -> None:
    model = fitted_model(PLUGIN_MODELS[0])
    folder = save_tiny(tmp_path / "model", model)
    export(folder, "tensorrt", "fp16", tensorrt=TensorRtOptions(1), plugins=True)
    images = model_images(model, 1)
    actual = np.stack(Engine.load(folder, "tensorrt", "cuda", "fp16").backend.grids(list(images)))
    apart = relative_error(torch.from_numpy(actual), torch.from_numpy(loop_grids(model, images)))
    assert tolerance("output", "fp32") < apart < tolerance("output", "fp16")


TARGETS = ("80", "90", "120")


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, str, int, int, int]]]:
    """The kernels of plugins as compiled for each target."""
    rows: dict[str, list[tuple[str, str, int, int, int]]] = compile_in_process(
        ["-m", "tests.helpers.plugin_kernels", *TARGETS], tmp_path_factory.mktemp("cache")
    )
    return rows


@pytest.mark.parametrize("target", TARGETS)
def test_the_plugins_kernels_take_what_tensorrt_passes(
    target: str, kernels: dict[str, list[tuple[str, str, int, int, int]]]
) -> None:
    """Compiled as for an engine: each entry has a parameter an argument, an assembler takes it, 48 KB are enough."""
    rows = kernels[target]
    assert {row[0] for row in rows} == {"base_kernel", "entries_kernel", "pool_kernel", "score_kernel"}
    for name, ptx, passed, shared, registers in rows:
        entry = re.search(rf"\.entry {name}\((.*?)\)", ptx, re.DOTALL)
        assert entry is not None and entry[1].count(".param") == passed
        assert shared <= 48 * 1024 and registers


def test_plugins_that_cannot_be_are_refused(engine_folder: Path, machine: Machine) -> None:
    with pytest.raises(ConfigError, match="compiled for the GPU at hand"):
        export(engine_folder, "tensorrt", tensorrt=TensorRtOptions(any_gpu=True), plugins=True)
    with pytest.raises(ConfigError, match="plugins compute in fp32 or fp16"):
        export(engine_folder, "tensorrt", "int8", plugins=True)
    with pytest.raises(ConfigError, match="openvino and tensorrt know, and onnx"):
        export(engine_folder, "onnx", plugins=True)
    machine.patch.setattr(fake_tensorrt, "NetworkDefinitionCreationFlag", IntEnum("Flags", {"STRONGLY_TYPED": 0}))
    machine.install()
    with pytest.raises(BackendError, match=r"TensorRT 11\.4\.0\.106 takes no plugins"):
        export(engine_folder, "tensorrt", plugins=True)
