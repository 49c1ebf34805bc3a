"""What samples and channels mean: ranges by file, model or neither; transparency by its setting; order of channels."""

from __future__ import annotations

import logging
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from glance_fast.data.images import as_rgb, read_image, read_rgb, resize, resize_rgb
from glance_fast.data.meaning import InputSettings
from glance_fast.data.prepare import prepare
from glance_fast.errors import ImageError
from tests.helpers.image_files import pgm, png_16, png_chunk, saved, tiff
from tests.helpers.images import textured_image
from tests.helpers.models import tiny_config

RNG = np.random.default_rng(0)


def ramp(bits: int) -> NDArray[np.uint16]:
    """Values over the whole range of so many bits, [32, 64]."""
    return np.linspace(0, 2**bits - 1, 32 * 64).round().astype(np.uint16).reshape(32, 64)


def files_of(samples: NDArray[np.uint16]) -> dict[str, bytes]:
    """16-bit files of samples that do not state their range."""
    return {"a.png": png_16(samples), "a.tif": tiff(samples), "a.pgm": pgm(samples, 65535)}


@pytest.mark.parametrize("used", [8, 10, 12])
@pytest.mark.parametrize("kind", ["a.png", "a.tif", "a.pgm", "array", "PIL"])
def test_low_bits_of_unknown_range_are_an_error_that_names_the_used_range(tmp_path: Path, kind: str, used: int) -> None:
    image: Any = ramp(used) if kind == "array" else Image.fromarray(ramp(used)) if kind == "PIL" else tmp_path / kind
    if kind in files_of(ramp(used)):
        image.write_bytes(files_of(ramp(used))[kind])
    with pytest.raises(ImageError, match=rf"range of {used} bits.*above {2**used - 1}.*--set bits={max(10, used)}"):
        as_rgb(image)


def test_14_bits_of_unknown_range_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    prepare(ramp(14), tiny_config(image_size=(24, 24)))
    assert "range of 14 bits" in caplog.text


def test_all_16_bits_and_a_black_frame_are_read_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for image in (ramp(16), ramp(16) * np.uint16(0)):
            prepare(image, tiny_config(image_size=(24, 24)))
    assert not caplog.text


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["a.png", "a.tif", "a.pgm", "array"])
def test_the_models_range_is_that_of_16_bit_samples(tmp_path: Path, kind: str, bits: int) -> None:
    image: Any = ramp(bits) if kind == "array" else tmp_path / kind
    if kind != "array":
        image.write_bytes(files_of(ramp(bits))[kind])
    actual = as_rgb(image, InputSettings(bits))
    assert actual.doubt is None
    assert (actual.pixels[:, :, 0] == np.rint(ramp(bits) / (2**bits - 1) * 255)).all()


def test_a_sample_above_the_models_range_is_an_error(tmp_path: Path) -> None:
    samples = ramp(12)
    samples[0, 0] = 4096
    with pytest.raises(ImageError, match="sample of 4096.*12 bits end at 4095"):
        as_rgb(samples, InputSettings(12))


@pytest.mark.parametrize(("bits", "used"), [(10, 8), (12, 10), (12, 8), (14, 12), (16, 12)])
def test_a_range_that_may_be_of_another_setting_of_the_camera_is_reported(
    bits: int, used: int, caplog: pytest.LogCaptureFixture
) -> None:
    prepare(ramp(used), tiny_config(image_size=(24, 24), bits=bits))
    assert f"range of {used} bits" in caplog.text and f"{bits} bits" in caplog.text


@pytest.mark.parametrize(("stated", "bits"), [(12, 10), (10, 12), (12, 16)])
def test_a_file_that_states_another_range_than_the_model_is_an_error(tmp_path: Path, stated: int, bits: int) -> None:
    (tmp_path / "a.pgm").write_bytes(pgm(ramp(stated), 2**stated - 1))
    (tmp_path / "a.png").write_bytes(png_16(ramp(stated), png_chunk(b"sBIT", bytes([stated]))))
    for name in ("a.pgm", "a.png"):
        with pytest.raises(ImageError, match=f"states {stated} bits.*reads {bits}"):
            read_rgb(tmp_path / name, InputSettings(bits))
        assert (read_image(tmp_path / name)[:, :, 0] == np.rint(ramp(stated) / (2**stated - 1) * 255)).all()
        assert (read_image(tmp_path / name, InputSettings(stated)) == read_image(tmp_path / name)).all()


@pytest.mark.parametrize("bits", [None, 10, 12, 14, 16])
def test_images_of_8_bits_are_the_same_for_every_range(bits: int | None) -> None:
    image = textured_image(20, 30)
    values = as_rgb(image, InputSettings(bits)).values
    assert np.shares_memory(values, image) and (values == image).all()


@pytest.mark.parametrize("how", ["stretch", "letterbox"])
def test_16_bit_samples_are_rounded_once_after_resizing(how: str) -> None:
    samples = RNG.integers(0, 4096, (60, 90, 3), np.uint16)
    resized = resize_rgb(as_rgb(samples, InputSettings(12)), (24, 24), how)
    eight = resize(np.rint(samples / 4095 * 255).astype(np.uint8), (24, 24), how)
    assert resized.dtype == np.uint8 and np.abs(resized.astype(int) - eight).max() <= 1
    # Levels between those of 8 bits survive where many samples are averaged.
    fine = np.full((64, 64), 1000, np.uint16)
    fine[:, ::2] = 1010
    assert (resize_rgb(as_rgb(fine, InputSettings(12)), (8, 8))[2:6, 2:6] == round(1005 / 4095 * 255)).all()


RGBA = np.dstack([textured_image(20, 30), np.full((20, 30), 255, np.uint8)])


def with_alpha(values: Any) -> NDArray[np.uint8]:
    image = RGBA.copy()
    image[:, :, 3] = values
    return image


def transparent_files(rgba: NDArray[np.uint8]) -> dict[str, bytes]:
    """Files with a fourth channel, of 8 and of 16 bits."""
    image = Image.fromarray(rgba)
    return {
        "a.png": saved(image, "PNG"),
        "a.tif": saved(image, "TIFF"),
        "a.webp": saved(image, "WEBP", lossless=True, exact=True),
        "deep.png": png_16(rgba.astype(np.uint16) * 257),
        "deep.tif": tiff(rgba.astype(np.uint16) * 257, photometric="rgb", extrasamples=["unassalpha"]),
    }


@pytest.mark.parametrize("name", transparent_files(RGBA))
def test_transparency_is_refused_dropped_or_blended(tmp_path: Path, name: str) -> None:
    path, half = tmp_path / name, with_alpha(128)
    half[0] = RGBA[0]
    path.write_bytes(transparent_files(half)[name])
    with pytest.raises(ImageError, match=r"not opaque everywhere.*--set alpha=drop"):
        read_image(path, InputSettings(alpha="refuse"))
    assert (read_image(path, InputSettings(alpha="drop")) == RGBA[:, :, :3]).all()
    blended = read_image(path, InputSettings(alpha="blend")).astype(float)
    assert np.abs(blended[1:] - RGBA[1:, :, :3] * (128 / 255)).max() <= 1 and (blended[0] == RGBA[0, :, :3]).all()


@pytest.mark.parametrize("name", transparent_files(RGBA))
@pytest.mark.parametrize("alpha", ["refuse", "blend"])
def test_an_image_that_is_transparent_everywhere_is_an_error(tmp_path: Path, name: str, alpha: str) -> None:
    (tmp_path / name).write_bytes(transparent_files(with_alpha(0))[name])
    with pytest.raises(ImageError, match="transparent everywhere"):
        read_image(tmp_path / name, InputSettings(alpha=alpha))
    assert (read_image(tmp_path / name, InputSettings(alpha="drop")) == RGBA[:, :, :3]).all()


@pytest.mark.parametrize("alpha", ["refuse", "drop", "blend"])
def test_an_opaque_fourth_channel_changes_nothing(tmp_path: Path, alpha: str) -> None:
    for name, file in transparent_files(RGBA).items():
        (tmp_path / name).write_bytes(file)
        assert (read_image(tmp_path / name, InputSettings(alpha=alpha)) == RGBA[:, :, :3]).all()
    assert (as_rgb(Image.fromarray(RGBA), InputSettings(alpha=alpha)).pixels == RGBA[:, :, :3]).all()


def test_a_channel_that_is_no_transparency_is_refused_or_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(with_alpha(7), photometric="rgb", extrasamples=["unspecified"]))
    with pytest.raises(ImageError, match="beside its colours"):
        read_image(tmp_path / "a.tif", InputSettings(alpha="refuse"))
    for alpha in ("drop", "blend"):
        assert (read_image(tmp_path / "a.tif", InputSettings(alpha=alpha)) == RGBA[:, :, :3]).all()


def test_a_transparent_bitmap_of_a_frame_grabber_is_an_error(tmp_path: Path) -> None:
    bgra = with_alpha(0)[::-1, :, [2, 1, 0, 3]].tobytes()
    masks = struct.pack("<4L", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<LllHHLLllLL", 108, 30, 20, 1, 32, 3, len(bgra), 0, 0, 0, 0) + masks + bytes(52)
    (tmp_path / "a.bmp").write_bytes(b"BM" + struct.pack("<LLL", 122 + len(bgra), 0, 122) + header + bgra)
    assert (read_image(tmp_path / "a.bmp", InputSettings(alpha="drop")) == RGBA[:, :, :3]).all()
    with pytest.raises(ImageError, match="transparent everywhere"):
        read_image(tmp_path / "a.bmp")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_arrays_of_the_order_bgr_are_turned_and_files_are_not(tmp_path: Path, dtype: type[np.generic]) -> None:
    rgb = textured_image(20, 30)
    scale = {np.uint8: 1, np.uint16: 257, np.float32: 1 / 255}[dtype]
    bgr = (rgb[:, :, ::-1].astype(np.float64) * scale).astype(dtype)
    assert (as_rgb(bgr, InputSettings(channels="bgr")).pixels == rgb).all()
    Image.fromarray(rgb).save(tmp_path / "a.png")
    for same in (tmp_path / "a.png", Image.fromarray(rgb), as_rgb(rgb)):
        assert (as_rgb(same, InputSettings(channels="bgr")).pixels == rgb).all()


def test_a_pil_image_of_several_frames_needs_a_copy_of_the_frame(tmp_path: Path) -> None:
    frames = [Image.fromarray(textured_image(20, 30, seed)) for seed in range(2)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "a.tif") as image:
        with pytest.raises(ImageError, match=r"2 pages or frames.*image\.copy"):
            as_rgb(image)
        image.seek(1)
        assert (as_rgb(image.copy()).pixels == np.asarray(frames[1])).all()


@pytest.mark.parametrize("kind", ["a.png", "a.tif"])
def test_a_pil_image_that_would_lose_bits_is_an_error(tmp_path: Path, kind: str) -> None:
    colors = np.dstack([ramp(16)] * 3)
    (tmp_path / "a.png").write_bytes(png_16(colors))
    (tmp_path / "a.tif").write_bytes(tiff(colors, photometric="rgb"))
    with Image.open(tmp_path / kind) as image, pytest.raises(ImageError, match="Pillow .*; give its path"):
        as_rgb(image)
