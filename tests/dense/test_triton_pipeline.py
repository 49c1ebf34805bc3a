"""Pixels to scores on the Triton kernels: in the interpreter, or on a GPU where there is one, they are the loop's."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from bench import gpu
from glance_fast.backends.tolerances import relative_error, tolerance
from glance_fast.dense.triton_heads import TritonHeads
from glance_fast.dense.triton_pass import pack_conv
from glance_fast.dense.triton_pipeline import TritonPipeline, first_convolution
from glance_fast.engine import Engine
from glance_fast.errors import BackendError, ConfigError
from glance_fast.export.graph.pipeline import export_onnx
from glance_fast.kernels.gpu import ops
from tests.helpers.compilers import DEVICE
from tests.helpers.images import model_images
from tests.helpers.models import PRETRAINED, fitted_model, save_tiny, tiny_calibration
from tests.helpers.reference import in_double, loop_grids
from tests.helpers.tolerances import assert_close
from tests.helpers.triton_interpreter import overflow_checked

NORM: dict[str, Any] = {
    "image_size": (37, 53),
    "patch": 19,
    "stride": 12,
    "border_padding": 9,
    "location_whitening": True,
}
SMALL: dict[str, Any] = {"image_size": (17, 19), "patch": 9, "stride": 7}
MODELS: list[dict[str, Any]] = [
    {"image_size": (37, 45), "patch": 11, "stride": 9},
    {"image_size": (40, 37), "patch": 16, "stride": 8, "readout": 2, "dad_width": 40, "smoothing_sigma": 0.75},
    {**NORM, "features": 37, "dad_width": 20},
    {
        "image_size": (98, 105),
        **PRETRAINED,
        "stride": 36,
        "border_padding": 12,
        "smoothing_sigma": 1.5,
        "context_features": 5,
    },
]


@pytest.mark.parametrize("changes", MODELS, ids=str)
def test_the_pipeline_is_the_loop(changes: dict[str, Any]) -> None:
    model = fitted_model(changes)
    images = model_images(model, 2)
    actual = TritonPipeline(model, DEVICE)(torch.from_numpy(images).to(DEVICE))
    assert_close(actual.cpu(), torch.from_numpy(loop_grids(model, images)), torch.float32)


def test_the_pipeline_is_near_the_loop_in_half_floats() -> None:
    model = fitted_model(MODELS[2])
    images = model_images(model, 1)
    actual = TritonPipeline(model, DEVICE, torch.float16)(torch.from_numpy(images).to(DEVICE))
    apart = relative_error(actual.cpu(), torch.from_numpy(loop_grids(model, images)))
    assert tolerance("output", "fp32") < apart < tolerance("output", "fp16")


HEADS = [
    {"image_size": (32, 40), "dad_width": 40},
    {**NORM, "stride": 18, "features": 70, "dad_width": 20},
    {"image_size": (62, 51), **PRETRAINED, "context_features": 21},
]


@pytest.mark.parametrize("changes", HEADS, ids=str)
@pytest.mark.parametrize("batch", [1, 17])
def test_the_heads_are_the_models(changes: dict[str, Any], batch: int) -> None:
    """More images than a program takes, features and hidden units that no power of two is."""
    model = fitted_model(changes)
    locations = len(model.grid[0]) * len(model.grid[1])
    z_local = torch.randn(batch, locations, model.config.features + model.config.context_features)
    z_global = torch.randn(batch, locations, model.config.features)
    reference = in_double(model).score(z_local.double(), z_global.double()).detach()
    actual = TritonHeads(model, DEVICE)(z_local.to(DEVICE), z_global.to(DEVICE))
    assert_close(actual.flatten(1).cpu(), reference, torch.float32)


def test_a_matrix_that_is_not_triangular_is_refused() -> None:
    model = fitted_model(NORM)
    assert model.whitening is not None
    model.whitening.matrix[3, 0, 1] = 1e-3
    for form in (lambda: TritonHeads(model, DEVICE), lambda: export_onnx(model, tiny_calibration())):
        with pytest.raises(ConfigError, match="not lower triangular"):
            form()


STEMS = [
    ({"image_size": (44, 41), **PRETRAINED}, 6.0),
    ({"image_size": (41, 44), **PRETRAINED}, 6.0),
    ({"image_size": (37, 45), "patch": 11, "stride": 9}, math.inf),
    ({"image_size": (41, 53), "patch": 19, "stride": 4, "border_padding": 9}, math.inf),
]


@pytest.mark.parametrize("changes, maximum", STEMS, ids=str)
def test_pixels_become_the_first_convolution_at_once(changes: dict[str, Any], maximum: float) -> None:
    """Normalised, padded, convolved and clipped: values on both sides of all limits, at the borders and inside."""
    model = fitted_model(changes).double()
    net = model.local_net
    conv, geometry = first_convolution(model)
    sides = geometry.stride, geometry.padding, geometry.maximum
    conv.weight.data.mul_(5)
    images = torch.from_numpy(model_images(model, 2))
    padded = model.padded(model.from_uint8(images))
    expected = net.stem(padded, model.config.stride).detach()
    assert (expected == 0).any() and ((expected > 0) & (expected < maximum)).any()
    assert (expected == maximum).any() or maximum == math.inf
    pixels = torch.stack([1 / (255 * model.std), model.mean / model.std]).flatten(1).float().to(DEVICE)
    actual = ops.pixel_conv(images.to(DEVICE), pixels, *pack_conv(conv, DEVICE, torch.float32), *sides)
    assert_close(actual.permute(0, 3, 1, 2).cpu(), expected, torch.float32)


def test_the_operators_keep_pytorchs_rules() -> None:
    """Schemas, and fake forms that give the shapes of the real ones, for an image and for two."""
    height, width = size = (21, 23)
    model = fitted_model({**MODELS[2], "image_size": size})
    pipeline = TritonPipeline(model, DEVICE)
    heads, dense = pipeline._heads, pipeline._dense
    for batch in (1, 2):
        images = torch.from_numpy(model_images(model, batch)).to(DEVICE)
        z = torch.randn(2, batch, len(model.grid[0]) * len(model.grid[1]), 37, device=DEVICE)
        base = torch.randn(batch, height, width, 3, device=DEVICE)
        entries = base.new_zeros(batch, 0, 3)
        level = dense.tables[0]
        of_level = level.tensors(), level.entries, level.tile_size, False
        pool = dense.tables[1]
        of_pool = pool.tensors(), pool.entries, pool.tile_size
        below = [torch.randn(*shape, 4, device=DEVICE) for shape in ((batch, height, width), (batch, level.entries))]
        calls: list[tuple[Any, tuple[Any, ...]]] = [
            (ops.pixel_conv, (images, pipeline._pixels, *dense.convs[0], 2, 9, 6.0)),
            (ops.pixel_level, (images, pipeline._pixels, *dense.convs[0], *of_level, "ieee")),
            (ops.conv_pool, (base, entries, *dense.convs[0], level.tensors(), 2, *of_pool, True, "ieee")),
            (ops.score, (z[0], z[1], heads._weights, "ieee")),
            (ops.partial_conv, (base, entries, *dense.convs[0], *of_level, "ieee")),
            (ops.max_pool, (*below, 2, *of_pool, True)),
        ]
        for operator, arguments in calls:
            torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


def test_export_sees_the_whole_pass_as_operators() -> None:
    model = fitted_model(SMALL)
    pipeline = TritonPipeline(model, DEVICE)

    class Scores(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return pipeline(images)

    images = torch.from_numpy(model_images(model, 1)).to(DEVICE)
    program = torch.export.export(Scores(), (images,), strict=False)
    graphs = [part.graph for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
    names = {str(node.target) for graph in graphs for node in graph.nodes if node.op == "call_function"}
    due = ("pixel_conv", "pixel_level", "partial_conv", "max_pool", "score")
    assert {f"glance_fast.{name}.default" for name in due} <= names
    torch.testing.assert_close(program.module()(images), pipeline(images))


def test_no_integer_of_the_kernels_overflows() -> None:
    """Where the interpreter checks, which it does for no other test: addresses, keys and numbers of entries."""
    model = fitted_model(SMALL)
    images = torch.from_numpy(model_images(model, 2)).to(DEVICE)
    pipeline = TritonPipeline(model, DEVICE)
    with overflow_checked():
        actual = pipeline(images)
    torch.testing.assert_close(actual, pipeline(images), rtol=0, atol=0)


def test_compile_takes_the_whole_pass_as_one_graph() -> None:
    model = fitted_model(SMALL)
    pipeline = TritonPipeline(model, DEVICE)
    images = torch.from_numpy(model_images(model, 1)).to(DEVICE)
    compiled = torch.compile(lambda pixels: pipeline(pixels), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images), pipeline(images))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_engine_reports_a_missing_gpu(tmp_path: Any) -> None:
    folder = save_tiny(tmp_path / "model", fitted_model({}))
    with pytest.raises(BackendError, match="no CUDA device is available; use device='cpu'"):
        Engine.load(folder, "cuda", "cuda")
    with pytest.raises(BackendError, match="runs on a GPU, and device 'cpu' was requested"):
        Engine.load(folder, "cuda")
    with pytest.raises(BackendError, match="'cuda' runs at fp32, fp16, bf16, and int8"):
        Engine.load(folder, "cuda", "cuda", "int8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_gpu_benchmark_reports_a_missing_gpu(tmp_path: Any) -> None:
    with pytest.raises(SystemExit, match="needs a CUDA device and there is none"):
        gpu.main(tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("changes", MODELS, ids=str)
def test_the_engine_is_the_loop_on_a_gpu(changes: dict[str, Any], tmp_path: Any) -> None:
    """Captured launches of every size, images on the host and on the device."""
    model = fitted_model(changes)
    backend = Engine.load(save_tiny(tmp_path / "model", model), "cuda", "cuda").backend
    images = model_images(model, 5)
    reference = loop_grids(model, images)
    for count in (1, 2, 5, 1):
        for batch in (list(images[:count]), list(torch.from_numpy(images[:count]).to(DEVICE))):
            actual = torch.stack(list(backend.grids(batch)))
            assert_close(actual.cpu(), torch.from_numpy(reference[:count]), torch.float32)
