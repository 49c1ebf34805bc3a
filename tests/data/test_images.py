"""Images: every accepted kind becomes uint8 RGB as documented, and every other is an error that says why."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile

from glance_fast.data.formats import decoded
from glance_fast.data.images import IMAGE_SUFFIXES, as_rgb, read_gray, read_image
from glance_fast.errors import ImageError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (7, 11, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]
SIXTEEN = RNG.integers(0, 2**16, (7, 11), dtype=np.uint16)
ROUNDED = np.rint(SIXTEEN / 257).astype(np.uint8)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, color: int, rows: bytes) -> bytes:
    """A PNG file by hand, for sizes and depths that Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def is_rgb_of(actual: NDArray[np.uint8], expected: NDArray[np.uint8]) -> bool:
    """Whether it is uint8 [H, W, 3] with these values, grey ones in all three channels."""
    expected_rgb = np.broadcast_to(expected.reshape(*expected.shape[:2], -1), (*expected.shape[:2], 3))
    return actual.dtype == np.uint8 and actual.shape == expected_rgb.shape and bool((actual == expected_rgb).all())


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (RGB, RGB),
        (RGB[::-1, ::2], RGB[::-1, ::2]),
        (np.asfortranarray(RGB), RGB),
        (GREY, GREY),
        (GREY[:, :, None], GREY),
        (RGB[:1, :1], RGB[:1, :1]),
        (SIXTEEN, ROUNDED),
        (SIXTEEN.astype(">u2"), ROUNDED),
        (GREY > 100, (GREY > 100).astype(np.uint8) * 255),
        (RGB / 255, RGB),
        ((RGB / 255).astype(np.float32), RGB),
        ((RGB / 255).astype(">f4"), RGB),
        (np.array([[-1e-7, 1.0000001]]), np.array([[0, 255]], np.uint8)),
        (np.array([[0.0, 0.001, 0.5, 1.0]], np.float64), np.array([[0, 0, 128, 255]], np.uint8)),
        (np.array([[0.0, 1.0]], np.float16), np.array([[0, 255]], np.uint8)),
    ],
)
def test_arrays_become_rgb(array: NDArray[np.generic], expected: NDArray[np.uint8]) -> None:
    actual = as_rgb(array).pixels
    assert is_rgb_of(actual, expected) and actual.flags.c_contiguous


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros((7, 11, 4), np.uint8), r"\(7, 11, 4\).*alpha channel"),
        (np.zeros((7, 11, 2), np.uint8), r"\(7, 11, 2\)"),
        (np.zeros((3, 7, 11), np.uint8), r"\(3, 7, 11\)"),
        (np.zeros((1, 7, 11, 3), np.uint8), r"\(1, 7, 11, 3\)"),
        (np.zeros(7, np.uint8), r"\(7,\)"),
        (np.zeros((), np.uint8), r"\(\)"),
        (np.zeros((0, 11, 3), np.uint8), "empty"),
        (np.zeros((7, 0), np.uint8), "empty"),
        (np.full((2, 2), np.nan), "NaN or infinite"),
        (np.array([[0.5, np.inf]], np.float32), "NaN or infinite"),
        (np.array([[0.0, 1.01]]), r"0 to 1\.01"),
        (np.array([[-0.5, 1.0]]), r"-0\.5 to 1"),
        (np.zeros((2, 2), np.int64), "int64"),
        (np.zeros((2, 2), np.int8), "int8"),
        (np.zeros((2, 2), np.complex64), "complex64"),
        (np.array([["a"]]), "<U1"),
        ([[1, 2]], "list"),
        (None, "NoneType"),
        (b"photo.png", "bytes"),
    ],
)
def test_what_is_no_image_is_an_error_that_names_its_source(value: np.ndarray, words: str) -> None:
    with pytest.raises(ImageError, match=rf"^photo 3: .*{words}"):
        as_rgb(value, source="photo 3")


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_suffix_is_read_in_color_and_grey(tmp_path: Path, suffix: str) -> None:
    flat = np.full((9, 13, 3), (200, 40, 90), np.uint8)
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(flat).save(path)
    assert np.abs(read_image(path).astype(int) - flat).max() <= 4  # JPEG and WebP lose a little
    luminance = flat[0, 0] @ np.array([0.299, 0.587, 0.114])
    assert read_gray(path).shape == (9, 13) and np.abs(read_gray(path) - luminance).max() <= 4


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_read_as_its_file(tmp_path: Path, kind: type[str | Path]) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    assert is_rgb_of(as_rgb(kind(tmp_path / "a.png")).pixels, RGB)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_rounded_to_eight(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(SIXTEEN).save(path)
    assert is_rgb_of(read_image(path), ROUNDED)
    assert (read_gray(path) == ROUNDED).all()


def test_sixteen_bits_of_colour_are_rounded_to_eight(tmp_path: Path) -> None:
    values = RNG.integers(0, 2**16, (5, 3, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    (tmp_path / "deep.png").write_bytes(png(3, 5, 16, 2, rows))
    assert is_rgb_of(read_image(tmp_path / "deep.png"), np.rint(values / 257).astype(np.uint8))


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    indexed = Image.fromarray(GREY % 3, "P")
    indexed.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    indexed.save(tmp_path / "a.png")
    table = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]], np.uint8)
    assert is_rgb_of(read_image(tmp_path / "a.png"), table[GREY % 3])


def test_a_palettes_transparent_colour_is_black(tmp_path: Path) -> None:
    indexed = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    indexed.putpalette([10, 20, 30, 40, 50, 60])
    indexed.save(tmp_path / "a.png", transparency=1)
    assert read_image(tmp_path / "a.png").tolist() == [[[10, 20, 30], [0, 0, 0]]]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_black(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (3, 1), (200,) * (len(mode) - 1) + (255,))
    image.putpixel((1, 0), (200,) * (len(mode) - 1) + (0,))
    image.putpixel((2, 0), (200,) * (len(mode) - 1) + (128,))
    image.save(tmp_path / "a.png")
    assert is_rgb_of(read_image(tmp_path / "a.png"), np.array([[200, 0, 100]], np.uint8))
    assert is_rgb_of(as_rgb(image).pixels, np.array([[200, 0, 100]], np.uint8))
    assert read_gray(tmp_path / "a.png").tolist() == [[200, 0, 100]]


def test_two_colours_are_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(GREY > 100).save(tmp_path / "a.png")
    assert is_rgb_of(read_image(tmp_path / "a.png"), (GREY > 100).astype(np.uint8) * 255)


def test_cmyk_is_turned_to_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - (255, 0, 0)).max() <= 4


@pytest.mark.parametrize(("orientation", "turn"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_a_photo_is_turned_as_its_exif_data_says(tmp_path: Path, orientation: int, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    assert is_rgb_of(read_image(tmp_path / "a.png"), np.rot90(RGB, turn))
    luminance = np.asarray(Image.fromarray(RGB).convert("L"))
    assert (read_gray(tmp_path / "a.png") == np.rot90(luminance, turn)).all()


def test_a_pil_image_is_taken_as_it_stands() -> None:
    image = Image.fromarray(RGB)
    image.getexif()[0x0112] = 6
    assert is_rgb_of(as_rgb(image).pixels, RGB)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_of_32_bits_are_an_error(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (5, 4), 1).save(tmp_path / "a.tif")
    for read in (read_image, read_gray):
        with pytest.raises(ImageError, match=r"a\.tif holds 32-bit"):
            read(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"photo 3 holds 32-bit"):
        as_rgb(Image.new(mode, (5, 4)), source="photo 3")


@pytest.mark.parametrize("size", [(0, 4), (4, 0)])
def test_an_empty_pil_image_is_an_error(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match=r"photo 3.*empty"):
        as_rgb(Image.new("RGB", size), source="photo 3")


def test_a_mode_that_pillow_cannot_convert_is_an_error() -> None:
    with pytest.raises(ImageError, match="photo 3 cannot be read"):
        as_rgb(Image.new("La", (3, 3)), source="photo 3")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"no image at all", "not an image of a kind"),
        (b"\x89PNG\r\n\x1a\n", "a.png"),
        (b"GIF89a", "a.png"),
        (png(3, 3, 8, 2, b"\0" * 12), "cannot be read"),
    ],
)
def test_a_file_that_is_no_image_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for read in (read_image, read_gray, as_rgb):
        with pytest.raises(ImageError, match=words) as caught:
            read(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.95])
def test_a_truncated_file_is_an_error(tmp_path: Path, kind: str, kept: float) -> None:
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    path = tmp_path / "half"
    path.write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * kept)])
    with pytest.raises(ImageError, match="half"):
        read_image(path)


def test_a_lazy_pil_image_that_is_truncated_is_an_error(tmp_path: Path) -> None:
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    half = (tmp_path / "a.png").read_bytes()[:6000]
    with pytest.raises(ImageError, match="photo 3.*truncated"):
        as_rgb(Image.open(io.BytesIO(half)), source="photo 3")


def test_pillows_setting_that_fills_truncated_files_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ImageError, match=r"a\.png.*LOAD_TRUNCATED_IMAGES"):
        read_image(tmp_path / "a.png")


def test_a_path_may_be_a_string(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3), (1, 2, 3)).save(tmp_path / "image.png")
    np.testing.assert_array_equal(read_image(str(tmp_path / "image.png")), read_image(tmp_path / "image.png"))


def test_missing_files_and_folders_have_different_errors(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"none\.png does not exist"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(ImageError, match="cannot be read"):
        as_rgb("a\0b.png")


@pytest.mark.parametrize(("width", "height"), [(2**14, 2**13 + 1), (60_000, 60_000)])
def test_a_huge_file_is_refused_before_it_is_decoded(tmp_path: Path, width: int, height: int) -> None:
    (tmp_path / "huge.png").write_bytes(png(width, height, 1, 0, b""))
    with pytest.raises(ImageError, match=r"huge\.png.*134,217,728"):
        read_image(tmp_path / "huge.png")


def test_a_large_file_within_the_limit_is_read_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 70)  # 77 pixels: more than one limit, less than two
    monkeypatch.setattr(decoded, "MAX_PIXELS", 77)
    assert is_rgb_of(read_image(tmp_path / "a.png"), RGB) and not recwarn.list
    monkeypatch.setattr(decoded, "MAX_PIXELS", 76)
    with pytest.raises(ImageError, match="11x7"):
        read_image(tmp_path / "a.png")
