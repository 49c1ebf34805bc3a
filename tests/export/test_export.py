"""Exports to OpenVINO: the loop's numbers as plain operators and with kernels; impossible exports are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import glance_fast
from glance_fast.backends.openvino_backend import multiplies_bfloat16
from glance_fast.backends.tolerances import relative_error, tolerance
from glance_fast.engine import Engine
from glance_fast.errors import BackendError, ConfigError
from glance_fast.export.export import export
from tests.helpers.compilers import HAS_CPP_COMPILER
from tests.helpers.images import model_images
from tests.helpers.models import (
    EXPORT_CASES,
    fitted_model,
    save_tiny,
)
from tests.helpers.reference import loop_grids
from tests.helpers.tolerances import assert_close


@pytest.mark.parametrize("changes", EXPORT_CASES, ids=str)
def test_the_graph_is_the_loop_in_openvino(changes: dict[str, Any], tmp_path: Path) -> None:
    """As plain operators and with our kernels; these in bfloat16 too."""
    model = fitted_model(changes)
    folder = save_tiny(tmp_path / "model", model)
    images = model_images(model, 2)
    reference = torch.from_numpy(loop_grids(model, images))
    for plugins in (False, True) if HAS_CPP_COMPILER else (False,):
        export(folder, "openvino", "fp32", plugins=plugins)
        backend = Engine.load(folder, "openvino").backend
        assert backend.device_description == "cpu at fp32" + ", with plugins" * plugins
        assert_close(torch.from_numpy(np.stack(backend.grids(list(images)))), reference, torch.float32)
    if HAS_CPP_COMPILER and multiplies_bfloat16():
        export(folder, "openvino", "bf16", plugins=True)
        actual = Engine.load(folder, "openvino", precision="bf16").backend.grids(list(images))
        assert tolerance("output", "fp32") < relative_error(np.stack(actual), reference) < tolerance("output", "bf16")


def test_the_package_offers_the_export() -> None:
    assert glance_fast.export_model is export and "export_model" in glance_fast.__all__


def test_impossible_exports_are_refused(exported_copy: Path) -> None:
    with pytest.raises(BackendError, match="unknown format 'tflite'; legal are onnx, openvino"):
        export(exported_copy, "tflite")
    with pytest.raises(BackendError, match="onnx is exported at fp32, fp16, int8, and 'int4'"):
        export(exported_copy, "onnx", "int4")
    with pytest.raises(ConfigError, match="--data"):
        export(exported_copy, "openvino", "int8")
