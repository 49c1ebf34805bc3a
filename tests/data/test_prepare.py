"""What an engine scores: every kind of input gives the same result, and what is no image is an error."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from glance_fast.backends.tolerances import relative_error, tolerance
from glance_fast.data.tensors import tensor_as_rgb
from glance_fast.engine import Engine
from glance_fast.errors import ConfigError, ImageError
from tests.helpers.image_files import png_16
from tests.helpers.images import textured_image
from tests.helpers.models import save_tiny, tiny_model
from tests.helpers.tolerances import assert_same_result

GREY = textured_image(40, 50)[..., 0]
RGB = textured_image(40, 50)
INPUTS: dict[str, tuple[Any, NDArray[np.uint8]]] = {
    "grey": (GREY, GREY[..., None].repeat(3, axis=2)),
    "grey, one channel": (GREY[..., None], GREY[..., None].repeat(3, axis=2)),
    "float32": (RGB.astype(np.float32) / 255, RGB),
    "float64": (RGB / 255, RGB),
    "bool": (GREY > 99, (GREY > 99)[..., None].repeat(3, axis=2) * np.uint8(255)),
    "not contiguous": (np.asfortranarray(RGB), RGB),
    "upside down": (RGB[::-1], RGB[::-1].copy()),
    "PIL": (Image.fromarray(RGB), RGB),
    "PIL grey": (Image.fromarray(GREY), GREY[..., None].repeat(3, axis=2)),
}


@pytest.mark.parametrize("name", INPUTS)
def test_every_kind_of_input_gives_the_same(engine: Engine, name: str) -> None:
    value, pixels = INPUTS[name]
    assert_same_result(engine.score(value), engine.score(pixels))


def test_a_path_is_read(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(RGB).save(path)
    for source in (path, str(path)):
        assert_same_result(engine.score(source), engine.score(RGB))


def test_the_input_is_left_as_it_was(engine: Engine) -> None:
    for size in ((48, 56), (40, 50)):
        image = textured_image(*size)
        image.flags.writeable = False
        engine.score(image)
        np.testing.assert_array_equal(image, textured_image(*size))


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
    image = textured_image(48, 56)
    result, reference = engine.score(TENSORS[name](image)), engine.score(image)
    assert type(result.map) is torch.Tensor
    assert result.map.dtype == torch.float32
    assert not result.map.requires_grad and result.mask.dtype == torch.bool
    assert_same_result(result, reference)
    assert not (result.map + 1).is_inference()


def test_a_grey_tensor_is_its_array(engine: Engine) -> None:
    image = textured_image(48, 56)[..., 0]
    for tensor in (torch.from_numpy(image), torch.from_numpy(image)[None], torch.from_numpy(image)[..., None]):
        assert_same_result(engine.score(tensor), engine.score(image))


def test_a_tensor_of_another_size_is_scored_nearly_as_its_array(engine: Engine) -> None:
    image = textured_image(150, 117)
    tensor, array = engine.score(torch.from_numpy(image)), engine.score(image)
    assert tensor.map.shape == array.map.shape == (150, 117)
    assert relative_error(tensor.map, array.map) < tolerance("resized map", "fp32")


def test_bgr_is_read_as_it_is_said(tiny_folder: Path, engine: Engine) -> None:
    image, bgr = textured_image(48, 56), Engine.load(tiny_folder, channels="bgr")
    reversed_channels = image[:, :, ::-1].copy()
    for value in (reversed_channels, torch.from_numpy(reversed_channels), reversed_channels / 255):
        assert_same_result(bgr.score(value), engine.score(image))
    assert_same_result(bgr.score(Image.fromarray(image)), engine.score(image))
    assert_same_result(pickle.loads(pickle.dumps(bgr)).score(reversed_channels), engine.score(image))  # noqa: S301
    with pytest.raises(ConfigError, match="'gbr'.*rgb and bgr"):
        Engine.load(tiny_folder, channels="gbr")


def test_uint16_is_scored_as_the_same_levels_of_8_bits(engine: Engine) -> None:
    image = textured_image(48, 56)
    assert_same_result(engine.score(image.astype(np.uint16) * 257), engine.score(image))


def test_a_models_bits_are_the_range_of_its_files_and_arrays(tmp_path: Path) -> None:
    model = Engine.load(save_tiny(tmp_path / "model", tiny_model(bits=12)))
    eight = textured_image(48, 56)
    twelve = np.rint(eight * (4095 / 255)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(png_16(twelve))
    for value in (twelve, tmp_path / "a.png", eight):
        assert_same_result(model.score(value), model.score(eight))
    with pytest.raises(ImageError, match="12 bits end at 4095"):
        model.score(twelve * np.uint16(2))
    (result,) = model.stream([tmp_path / "a.png"])
    assert_same_result(result, model.score(eight))


def test_a_tensor_may_leave_its_range_by_a_rounding_error(engine: Engine) -> None:
    image = planes(textured_image(48, 56)) / 255
    image[0, 0, :2] = torch.tensor([1.0000001, -1e-7])
    assert_same_result(engine.score(image), engine.score(image.clamp(0, 1)))


BAD_IMAGES: dict[str, Any] = {
    "tiny": textured_image(15, 200),
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
    whole, failed = engine.score([textured_image(48, 56), BAD_IMAGES[name]])
    assert whole.error is None and isinstance(failed.error, ImageError)


def test_a_tiny_image_says_what_to_do(engine: Engine) -> None:
    with pytest.raises(ImageError, match="15x200 pixels is smaller than one 16x16 patch; give a larger image"):
        engine.score(BAD_IMAGES["tiny"])


def test_tensor_as_rgb_keeps_uint8_pixels() -> None:
    image = textured_image(20, 30)
    for tensor in (torch.from_numpy(image), planes(image)):
        np.testing.assert_array_equal(tensor_as_rgb(tensor).numpy(), image)
