"""Each piece of scoring an image alone, by pytest-benchmark: `python -m pytest bench/test_pieces.py`.

The preset `fast` with random weights at 256×256, on all cores: planning, loading, resizing, Local-Net, every level of
the dense pass, the heads, the map, an overlay. A piece with a reference fails its benchmark if its result is wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.harness.runners import save_model
from glance_fast.backends.tolerances import relative_error, tolerance
from glance_fast.config import ModelConfig
from glance_fast.data.images import resize
from glance_fast.dense.loop import LoopPass
from glance_fast.dense.torch_pass import DensePass
from glance_fast.dense.workspace import Workspace
from glance_fast.engine import Engine
from glance_fast.export.export import export
from glance_fast.models.model import GlanceModel
from glance_fast.plan.plan import Plan
from glance_fast.postprocessing.anomaly_map import bilinear_indices, interpolate, map_weights
from glance_fast.postprocessing.result import Result
from glance_fast.presets import PRESETS
from glance_fast.visualization.overlay import overlay

CONFIG = ModelConfig.model_validate(PRESETS["fast"]["model"])
LEVELS = len(GlanceModel(CONFIG).global_net.layers)


@pytest.fixture(scope="module")
def model() -> GlanceModel:
    torch.manual_seed(0)
    return GlanceModel(CONFIG).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def dense(model: GlanceModel) -> DensePass:
    return DensePass(model.compile_plan())


@pytest.fixture(scope="module")
def images(model: GlanceModel) -> Tensor:
    return model.from_uint8(torch.randint(0, 256, (1, *CONFIG.image_size, 3), dtype=torch.uint8))


@pytest.fixture(scope="module")
def features(model: GlanceModel, dense: DensePass, images: Tensor) -> tuple[Tensor, Tensor]:
    return dense.features(model, images)


@pytest.fixture(scope="module")
def folder(model: GlanceModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_model(model, tmp_path_factory.mktemp("pieces") / "model")
    export(folder, "openvino")
    return folder


def test_plan(benchmark: Any, model: GlanceModel) -> None:
    plan: Plan = benchmark(model.compile_plan)
    assert plan.locations == 1024


def test_tables_of_the_plan(benchmark: Any, model: GlanceModel) -> None:
    plan = model.compile_plan()
    assert benchmark(DensePass, plan).plan is plan


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_load(benchmark: Any, folder: Path, backend: str) -> None:
    engine: Engine = benchmark(Engine.load, folder, backend)
    assert engine.backend.name == backend


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_score(benchmark: Any, folder: Path, backend: str) -> None:
    engine, image = Engine.load(folder, backend), np.zeros((*CONFIG.image_size, 3), np.uint8)
    result: Result[Any] = benchmark(engine.score, image)
    assert result.map.shape == CONFIG.image_size


def test_resize(benchmark: Any) -> None:
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    assert benchmark(resize, image, CONFIG.image_size).shape == (*CONFIG.image_size, 3)


def test_local_net(benchmark: Any, model: GlanceModel, images: Tensor) -> None:
    padded = model.padded(images)
    with torch.inference_mode():
        z_local = benchmark(model.local_net, padded, CONFIG.stride)
    assert z_local.shape[2] * z_local.shape[3] == 1024


@pytest.mark.parametrize("level", range(LEVELS))
def test_level_of_the_dense_pass(benchmark: Any, model: GlanceModel, dense: DensePass, level: int) -> None:
    step, space = dense.steps[level], Workspace()
    table = torch.randn(step.step.below.zero + 1, step.step.channels_in).relu()
    out = torch.empty(len(step.scale) + 1, step.channels)
    with torch.inference_mode():
        benchmark(step.run, table, dense.convs(model.global_net)[level], out, space)


def test_dense_pass(benchmark: Any, model: GlanceModel, dense: DensePass, images: Tensor) -> None:
    global_input = model.cropped(model.local_net.feature_map(model.padded(images)))
    subset = model.compile_plan([3, 17], [5, 30])
    with torch.inference_mode():
        z_global: Tensor = benchmark(dense, model.global_net, global_input)
        loop = LoopPass(subset)(model.global_net, global_input)
    locations = [32 * row + col for row in (3, 17) for col in (5, 30)]
    assert z_global.dtype == torch.float32
    assert relative_error(z_global[:, locations], loop.double()) <= tolerance("output", "fp32")


def test_heads(benchmark: Any, model: GlanceModel, features: tuple[Tensor, Tensor]) -> None:
    with torch.inference_mode():
        scores: Tensor = benchmark(model.score, *features)
    assert torch.isfinite(scores).all()


def test_map(benchmark: Any) -> None:
    grid = np.random.default_rng(0).random((32, 32), np.float32)
    taps = [bilinear_indices(side, patches) for side, patches in zip((480, 640), CONFIG.patches, strict=True)]
    scores = benchmark(interpolate, grid, *taps)
    rows, cols = (map_weights(side, patches) for side, patches in zip((480, 640), CONFIG.patches, strict=True))
    assert relative_error(scores, rows @ grid.astype(np.float64) @ cols.T) <= tolerance("interpolation", "fp32")


def test_picture(benchmark: Any, folder: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    result = Engine.load(folder, "openvino").score(image)
    assert benchmark(overlay, image, result).shape[1] == 640
