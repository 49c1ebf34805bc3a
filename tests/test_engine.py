"""The engine: dense is the loop, all kinds of input give the same, from any thread, in their own size."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from glance_fast.data import images
from glance_fast.data.batches import BATCH
from glance_fast.data.tensors import resize_tensor, tensor_as_rgb
from glance_fast.engine import Engine
from glance_fast.errors import BackendError, ImageError, ModelFolderError
from glance_fast.evaluation.tolerances import relative_error, tolerance
from glance_fast.plan.patches import Patches
from glance_fast.postprocessing.anomaly_map import map_weights
from glance_fast.postprocessing.result import Result
from tests.helpers.tiny_models import save_tiny, tiny_calibration, tiny_model

SIZES = ((48, 56), (16, 16), (37, 53), (150, 17), (96, 112))


def photo(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """A smooth pattern with grain and a dark square."""
    rng = np.random.default_rng([height, width, seed])
    wave = np.sin(np.arange(height)[:, None] / 5 + seed) * np.cos(np.arange(width)[None, :] / 7)
    grain = rng.normal(0, 12, (height, width, 3))
    image: NDArray[np.float64] = 128 + 60 * wave[..., None] * np.array([1, 0.5, -1]) + grain
    image[height // 3 : height // 2, width // 3 : width // 2] = 10
    pixels: NDArray[np.uint8] = image.clip(0, 255).astype(np.uint8)
    return pixels


def close(actual: Any, reference: Any) -> None:
    """Hold float32 values to the tolerance: sums in another order."""
    assert relative_error(actual, reference) <= tolerance("output", "fp32")


def same(actual: Result[Any], reference: Result[Any]) -> None:
    close(actual.map, reference.map)
    close(actual.score, reference.score)
    assert (actual.p_value, actual.is_anomalous) == (reference.p_value, reference.is_anomalous)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("engine") / "model", tiny_model())


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return Engine.load(folder)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_dense_is_the_loop(engine: Engine, size: tuple[int, int]) -> None:
    dense, loop = engine.score(photo(*size)), engine.score(photo(*size), method="loop")
    same(dense, loop)
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
    same(engine.score(photo(60, 50)), engine.score(photo(60, 50), method="loop"))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_map_has_the_images_own_size(engine: Engine, size: tuple[int, int]) -> None:
    result = engine.score(photo(*size))
    assert result.map.shape == size and np.isfinite(result.map).all()
    assert str(result.map.dtype) == "float32"
    assert result.mask.shape == size
    assert result.mask.dtype == np.bool_
    assert type(result.score) is float
    assert result.map.max() <= result.score * (1 + 1e-5)


def test_the_numbers_of_a_result_follow_from_the_grid(engine: Engine) -> None:
    image, calibration = photo(48, 56), tiny_calibration()
    grid = engine.backend.grids([image])[0].numpy()
    result = engine.score(image)
    close(result.score, grid.max())
    close(result.map, map_weights(48, Patches(48, 16, 8)) @ grid @ map_weights(56, Patches(56, 16, 8)).T)
    assert result.p_value == calibration.p_value(result.score)
    assert result.threshold == engine.threshold == calibration.threshold
    assert result.pixel_threshold == engine.pixel_threshold == calibration.pixel_threshold
    np.testing.assert_array_equal(result.mask, result.map > 1.5)


def test_is_anomalous_and_top_follow_the_calibration(tmp_path: Path) -> None:
    model = tiny_model(top_k=1000)
    engine = Engine.load(save_tiny(tmp_path / "model", model))
    close(engine.score(photo(48, 56)).score, engine.backend.grids([photo(48, 56)])[0].numpy().mean())
    for shift, verdict in ((-1e-3, True), (1e-3, False)):
        score = engine.score(photo(48, 56)).score
        engine.calibration = tiny_calibration().model_copy(update={"threshold": score + shift})
        assert engine.score(photo(48, 56)).is_anomalous is verdict


GREY = photo(40, 50)[..., 0]
RGB = photo(40, 50)
INPUTS: dict[str, tuple[Any, NDArray[np.uint8]]] = {
    "grey": (GREY, GREY[..., None].repeat(3, axis=2)),
    "grey, one channel": (GREY[..., None], GREY[..., None].repeat(3, axis=2)),
    "float32": (RGB.astype(np.float32) / 255, RGB),
    "float64": (RGB / 255, RGB),
    "uint16": (RGB.astype(np.uint16) * 257, RGB),
    "bool": (GREY > 99, (GREY > 99)[..., None].repeat(3, axis=2) * np.uint8(255)),
    "not contiguous": (np.asfortranarray(RGB), RGB),
    "upside down": (RGB[::-1], RGB[::-1].copy()),
    "PIL": (Image.fromarray(RGB), RGB),
    "PIL grey": (Image.fromarray(GREY), GREY[..., None].repeat(3, axis=2)),
}


@pytest.mark.parametrize("name", INPUTS)
def test_every_kind_of_input_gives_the_same(engine: Engine, name: str) -> None:
    given, pixels = INPUTS[name]
    same(engine.score(given), engine.score(pixels))


def test_a_path_is_read(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(RGB).save(path)
    for given in (path, str(path)):
        same(engine.score(given), engine.score(RGB))


def test_the_input_is_left_as_it_was(engine: Engine) -> None:
    for size in ((48, 56), (40, 50)):
        image = photo(*size)
        image.flags.writeable = False
        engine.score(image)
        np.testing.assert_array_equal(image, photo(*size))


def planes(image: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)


TENSORS: dict[str, Callable[[NDArray[np.uint8]], torch.Tensor]] = {
    "[H, W, 3]": torch.from_numpy,
    "[3, H, W]": planes,
    "float32": lambda image: planes(image) / 255,
    "float64": lambda image: planes(image).double() / 255,
    "float16": lambda image: planes(image).half() / 255,
    "between grey levels": lambda image: (planes(image) - 0.3).clamp(0) / 255,
    "with a gradient": lambda image: (planes(image) / 255).requires_grad_(),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_gives_the_same_and_its_map_is_a_tensor(engine: Engine, name: str) -> None:
    image = photo(48, 56)
    result, reference = engine.score(TENSORS[name](image)), engine.score(image)
    assert type(result.map) is torch.Tensor
    assert result.map.dtype == torch.float32
    assert not result.map.requires_grad and result.mask.dtype == torch.bool
    same(result, reference)
    assert not (result.map + 1).is_inference()


def test_a_grey_tensor_is_its_array(engine: Engine) -> None:
    image = photo(48, 56)[..., 0]
    for given in (torch.from_numpy(image), torch.from_numpy(image)[None], torch.from_numpy(image)[..., None]):
        same(engine.score(given), engine.score(image))


def test_a_tensor_of_another_size_is_scored_nearly_as_its_array(engine: Engine) -> None:
    image = photo(150, 117)
    tensor, array = engine.score(torch.from_numpy(image)), engine.score(image)
    assert tensor.map.shape == array.map.shape == (150, 117)
    # The resized pixels may differ by one grey level.
    assert np.abs(tensor.map.numpy() - array.map).max() < 0.03 * np.abs(array.map).max()


@pytest.mark.parametrize("size", [(16, 16), (37, 53), (48, 57), (300, 200), (1000, 31), (56, 48)], ids=str)
@pytest.mark.parametrize("target", [(48, 56), (17, 5), (256, 256)], ids=str)
@pytest.mark.parametrize("how", ["stretch", "letterbox"])
def test_resizing_a_tensor_is_within_a_grey_level_of_pillow(
    size: tuple[int, int], target: tuple[int, int], how: str
) -> None:
    for image in (photo(*size), np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)):
        ours = resize_tensor(torch.from_numpy(image), target, how)
        assert ours.dtype == torch.uint8 and ours.shape == (*target, 3)
        difference = np.abs(ours.numpy().astype(int) - images.resize(image, target, how).astype(int))
        assert difference.max() <= 1


@pytest.mark.parametrize("size", [(48, 28), (24, 56)], ids=str)
def test_a_letterboxed_image_is_scored_as_in_its_frame(tmp_path: Path, size: tuple[int, int]) -> None:
    engine = Engine.load(save_tiny(tmp_path / "model", tiny_model(resize="letterbox")))
    rows, cols = ((48 - size[0]) // 2, (56 - size[1]) // 2)
    image = photo(*size)
    whole = np.pad(image, ((rows, rows), (cols, cols), (0, 0)), mode="symmetric")
    framed, result = engine.score(whole), engine.score(image)
    same(result, engine.score(torch.from_numpy(image)))
    same(result, engine.score(image, method="loop"))
    assert result.score == framed.score and result.map.shape == size
    close(result.map, framed.map[rows : rows + size[0], cols : cols + size[1]])


def test_a_list_or_a_batch_gives_what_single_images_give(engine: Engine) -> None:
    mixed = [photo(*SIZES[i % len(SIZES)], seed=i) for i in range(2 * BATCH + 1)]
    results = engine.score(mixed)
    assert len(results) == len(mixed)
    for result, image in zip(results, mixed, strict=True):
        same(result, engine.score(image))
    batch = np.stack([photo(30, 40, seed) for seed in range(3)])
    batches: list[Any] = [batch, list(batch), tuple(batch), torch.from_numpy(batch).permute(0, 3, 1, 2)]
    for given in batches:
        tensors = isinstance(given, torch.Tensor)
        for result, image in zip(engine.score(given), batch, strict=True):
            same(result, engine.score(torch.from_numpy(image) if tensors else image))
    assert engine.score([]) == []


def test_a_list_may_mix_arrays_tensors_and_pictures(engine: Engine) -> None:
    image = photo(48, 56)
    array, tensor, picture = engine.score([image, torch.from_numpy(image), Image.fromarray(image)])
    same(tensor, array)
    same(picture, array)
    assert isinstance(array.map, np.ndarray) and isinstance(tensor.map, torch.Tensor)


def test_eight_threads_at_once_give_the_same(engine: Engine) -> None:
    pictures = [photo(*SIZES[i % len(SIZES)], seed=i) for i in range(8)]
    expected = [engine.score(picture) for picture in pictures]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            for actual, reference in zip(pool.map(engine.score, pictures), expected, strict=True):
                same(actual, reference)


def test_an_unknown_method_backend_or_device_lists_the_legal_ones(engine: Engine, folder: Path) -> None:
    with pytest.raises(BackendError, match="unknown method 'fast'; legal are dense, loop"):
        engine.score(photo(48, 56), method="fast")
    with pytest.raises(BackendError, match=r"unknown backend 'abacus'; .*auto, torch"):
        Engine.load(folder, backend="abacus")
    with pytest.raises(BackendError, match="unknown device 'toaster'; legal are cpu, cuda"):
        Engine.load(folder, device="toaster")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_missing_gpu_is_said(folder: Path) -> None:
    with pytest.raises(BackendError, match="no CUDA device is there; use device='cpu'"):
        Engine.load(folder, device="cuda")


def test_auto_says_what_it_chose(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "glance_fast"):
        engine = Engine.load(str(folder), backend="auto")
    assert "backend auto: torch on cpu" in caplog.text
    assert "torch on cpu, 48x56" in repr(engine) and "model" in repr(engine)


def test_a_folder_that_is_none_is_a_model_folder_error(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="nowhere"):
        Engine.load(tmp_path / "nowhere")


BAD_IMAGES: dict[str, Any] = {
    "tiny": photo(15, 200),
    "tiny tensor": torch.zeros(3, 200, 15),
    "a pixel": np.zeros((1, 1, 3), np.uint8),
    "empty": np.zeros((0, 20, 3), np.uint8),
    "four channels": np.zeros((48, 56, 4), np.uint8),
    "two channels tensor": torch.zeros(48, 56, 2),
    "int64": np.zeros((48, 56, 3), np.int64),
    "int64 tensor": torch.zeros(48, 56, dtype=torch.int64),
    "above 1": np.full((48, 56, 3), 1.5),
    "above 1 tensor": torch.full((3, 48, 56), 1.5),
    "below 0 tensor": torch.full((3, 48, 56), -0.5),
    "nan": np.full((48, 56), np.nan),
    "nan tensor": torch.full((48, 56), torch.nan),
    "five axes": np.zeros((1, 1, 48, 56, 3), np.uint8),
    "one axis tensor": torch.zeros(48),
    "empty tensor": torch.zeros(3, 0, 56),
    "a number": 3,
    "nothing": None,
    "no file": "nowhere.png",
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_what_is_no_image_is_an_image_error(engine: Engine, name: str) -> None:
    with pytest.raises(ImageError):
        engine.score(BAD_IMAGES[name])
    with pytest.raises(ImageError):
        engine.score([photo(48, 56), BAD_IMAGES[name]])


def test_a_tiny_image_says_what_to_do(engine: Engine) -> None:
    with pytest.raises(ImageError, match="15x200 pixels is smaller than one 16x16 patch; give a larger image"):
        engine.score(BAD_IMAGES["tiny"])


def test_tensor_as_rgb_keeps_uint8_pixels() -> None:
    image = photo(20, 30)
    for tensor in (torch.from_numpy(image), planes(image)):
        np.testing.assert_array_equal(tensor_as_rgb(tensor).numpy(), image)
