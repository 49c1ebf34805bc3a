"""The engine: dense is the loop, lists and threads give what single images give, maps have the image's own size."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from glance_fast.backends.tolerances import tolerance
from glance_fast.data.batches import SCORING_BATCH
from glance_fast.engine import Engine
from glance_fast.errors import BackendError, GlanceError, ModelFolderError
from glance_fast.plan.patches import Patches
from glance_fast.postprocessing.anomaly_map import map_weights
from tests.helpers.images import textured_image
from tests.helpers.models import save_tiny, tiny_calibration, tiny_model
from tests.helpers.threads import assert_threads_agree
from tests.helpers.tolerances import assert_near, assert_same_result

SIZES = ((48, 56), (16, 16), (37, 53), (150, 17), (96, 112))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_dense_is_the_loop(engine: Engine, size: tuple[int, int]) -> None:
    dense, loop = engine.score(textured_image(*size)), engine.score(textured_image(*size), method="loop")
    assert_same_result(dense, loop)
    # A map that hardly varies could not tell the two apart.
    assert np.ptp(loop.map) > 1e-2 * np.abs(loop.map).max()


@pytest.mark.parametrize(
    "changes",
    [
        {"stride": 5},
        {"patch": 11, "stride": 3},
        {"iad_weight": 1.0, "top_k": 4},
        {"iad_weight": 0.0, "readout": 2},
        {"global_channels": (6, 8, 8), "global_convs": 2},
    ],
    ids=str,
)
def test_dense_is_the_loop_for_other_models(tmp_path: Path, changes: dict[str, Any]) -> None:
    engine = Engine.load(save_tiny(tmp_path / "model", tiny_model(**changes)))
    assert_same_result(engine.score(textured_image(60, 50)), engine.score(textured_image(60, 50), method="loop"))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_map_has_the_images_own_size(engine: Engine, size: tuple[int, int]) -> None:
    result = engine.score(textured_image(*size))
    assert result.map.shape == size and np.isfinite(result.map).all()
    assert str(result.map.dtype) == "float32"
    assert result.mask.shape == size
    assert result.mask.dtype == np.bool_
    assert type(result.score) is float
    assert result.map.max() <= result.score * (1 + tolerance("interpolation", "fp32"))


def test_the_numbers_of_a_result_follow_from_the_grid(engine: Engine) -> None:
    image, calibration = textured_image(48, 56), tiny_calibration()
    grid = engine.backend.grids([image])[0].numpy()
    result = engine.score(image)
    assert_near(result.score, grid.max())
    assert_near(result.map, map_weights(48, Patches(48, 16, 8)) @ grid @ map_weights(56, Patches(56, 16, 8)).T)
    assert result.p_value == calibration.p_value(result.score)
    assert result.threshold == engine.threshold == calibration.threshold
    assert result.pixel_threshold == engine.pixel_threshold == calibration.pixel_threshold
    np.testing.assert_array_equal(result.mask, result.map > 1.5)


def test_is_anomalous_and_top_follow_the_calibration(tmp_path: Path) -> None:
    model = tiny_model(top_k=1000)
    engine = Engine.load(save_tiny(tmp_path / "model", model))
    image = textured_image(48, 56)
    assert_near(engine.score(image).score, engine.backend.grids([image])[0].numpy().mean())
    for shift, verdict in ((-1e-3, True), (1e-3, False)):
        score = engine.score(image).score
        engine.calibration = tiny_calibration().model_copy(update={"threshold": score + shift})
        assert engine.score(image).is_anomalous is verdict


@pytest.mark.parametrize("size", [(48, 28), (24, 56)], ids=str)
def test_a_letterboxed_image_is_scored_as_in_its_frame(tmp_path: Path, size: tuple[int, int]) -> None:
    engine = Engine.load(save_tiny(tmp_path / "model", tiny_model(resize="letterbox")))
    rows, cols = ((48 - size[0]) // 2, (56 - size[1]) // 2)
    image = textured_image(*size)
    whole = np.pad(image, ((rows, rows), (cols, cols), (0, 0)), mode="symmetric")
    framed, result = engine.score(whole), engine.score(image)
    assert_same_result(result, engine.score(torch.from_numpy(image)))
    assert_same_result(result, engine.score(image, method="loop"))
    assert result.score == framed.score and result.map.shape == size
    assert_near(result.map, framed.map[rows : rows + size[0], cols : cols + size[1]])


def test_a_list_or_a_batch_gives_what_single_images_give(engine: Engine) -> None:
    mixed = [textured_image(*SIZES[i % len(SIZES)], seed=i) for i in range(2 * SCORING_BATCH + 1)]
    results = engine.score(mixed)
    assert len(results) == len(mixed)
    for result, image in zip(results, mixed, strict=True):
        assert_same_result(result, engine.score(image))
    batch = np.stack([textured_image(30, 40, seed) for seed in range(3)])
    batches: list[Any] = [batch, list(batch), tuple(batch), torch.from_numpy(batch).permute(0, 3, 1, 2)]
    for images in batches:
        tensors = isinstance(images, torch.Tensor)
        for result, image in zip(engine.score(images), batch, strict=True):
            assert_same_result(result, engine.score(torch.from_numpy(image) if tensors else image))
    assert engine.score([]) == []


def test_a_list_may_mix_arrays_tensors_and_pictures(engine: Engine) -> None:
    image = textured_image(48, 56)
    array, tensor, picture = engine.score([image, torch.from_numpy(image), Image.fromarray(image)])
    assert_same_result(tensor, array)
    assert_same_result(picture, array)
    assert isinstance(array.map, np.ndarray) and isinstance(tensor.map, torch.Tensor)


def test_eight_threads_at_once_give_the_same(engine: Engine) -> None:
    images = [textured_image(*SIZES[i % len(SIZES)], seed=i) for i in range(8)]
    assert_threads_agree(engine, images, threads=8)


def test_an_unknown_method_backend_or_device_lists_the_legal_ones(engine: Engine, tiny_folder: Path) -> None:
    with pytest.raises(BackendError, match="unknown method 'fast'; legal are dense, loop"):
        engine.score(textured_image(48, 56), method="fast")
    with pytest.raises(BackendError, match=r"unknown backend 'abacus'; .*auto, torch"):
        Engine.load(tiny_folder, backend="abacus")
    with pytest.raises(BackendError, match="unknown device 'toaster'; legal are cpu, cuda"):
        Engine.load(tiny_folder, device="toaster")


@pytest.mark.parametrize("value", [None, 3, b"cpu", [], 1.5])
@pytest.mark.parametrize("name", ["folder", "backend", "device", "precision", "streams", "channels"])
def test_what_is_of_another_type_is_refused_at_load(tiny_folder: Path, name: str, value: Any) -> None:
    arguments: dict[str, Any] = {"folder": tiny_folder, "backend": "torch", name: value}
    if (name, value) == ("streams", None):
        return  # the number that is fastest
    with pytest.raises(GlanceError, match=re.escape(repr(value) if name != "streams" else str(value))):
        Engine.load(**arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_missing_gpu_is_reported(tiny_folder: Path) -> None:
    with pytest.raises(BackendError, match="no CUDA device is available; use device='cpu'"):
        Engine.load(tiny_folder, device="cuda")


def test_auto_reports_its_choice(tiny_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "glance_fast"):
        engine = Engine.load(str(tiny_folder), backend="auto")
    assert "backend auto: torch on cpu" in caplog.text
    assert "torch on cpu, 48x56" in repr(engine) and "model" in repr(engine)


def test_a_folder_without_a_model_is_a_model_folder_error(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="nowhere"):
        Engine.load(tmp_path / "nowhere")
