"""TIFF: every layout of samples gives the samples that were written, or is refused."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from glance_fast.data.formats.decode import count_pictures, decode
from glance_fast.data.formats.decoded import FormatError
from tests.helpers.image_files import saved, tiff

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("tile", [None, (16, 16)], ids=["strips", "tiles"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("layout", ["grey", "inverted", "rgb", "planar rgb", "rgba", "planar rgba"])
def test_all_bits_of_every_layout_are_read(
    layout: str,
    compression: str | None,
    tile: tuple[int, int] | None,
    byteorder: str,
    dtype: type[np.unsignedinteger[Any]],
) -> None:
    white = np.iinfo(dtype).max
    channels = 1 if layout in ("grey", "inverted") else 4 if "rgba" in layout else 3
    samples = RNG.integers(0, white, (40, 37, channels), dtype, endpoint=True)
    file = tiff(
        samples[:, :, 0] if channels == 1 else np.moveaxis(samples, 2, 0) if "planar" in layout else samples,
        photometric={"grey": "minisblack", "inverted": "miniswhite"}.get(layout, "rgb"),
        planarconfig=None if channels == 1 else "separate" if "planar" in layout else "contig",
        extrasamples=["unassalpha"] if channels == 4 else None,
        compression=compression,
        tile=tile,
        byteorder=byteorder,
    )
    decoded = decode(file)
    expected = white - samples if layout == "inverted" else samples
    assert decoded.white == white and decoded.bits == (8 if white == 255 else None)
    assert (decoded.colors == expected[:, :, :3]).all()
    if channels == 4:
        assert decoded.alpha is not None and (decoded.alpha == samples[:, :, 3]).all() and decoded.opaque == white


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("mode", ["grey", "rgb"])
def test_packed_samples_state_their_range(bits: int, mode: str) -> None:
    samples = RNG.integers(0, 2**bits, (20, 33, 3), np.uint16)
    samples = samples if mode == "rgb" else samples[:, :, :1]
    decoded = decode(packed(samples, bits))
    assert (decoded.colors == samples).all()
    assert decoded.white == 2**bits - 1 and decoded.bits == bits


def packed(samples: np.ndarray, bits: int) -> bytes:
    """A TIFF whose samples [H, W, C] follow each other without a gap; each row begins at a byte."""
    height, width, channels = samples.shape
    digits = np.unpackbits(samples.astype(">u2").view(np.uint8).reshape(height, -1, 2), axis=2)[:, :, 16 - bits :]
    data = np.packbits(digits.reshape(height, -1), axis=1).tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 2 if channels == 3 else 1, 273: 0, 277: channels}
    tags |= {278: height, 279: len(data)}
    start = 8 + 2 + 12 * len(tags) + 4
    extra = b""
    entries = b""
    for code, value in sorted((tags | {273: start + (6 if channels == 3 else 0)}).items()):
        kind, count = (4, 1) if code in (256, 257, 273, 278, 279) else (3, 1)
        if code == 258 and channels == 3:
            extra, kind, count = np.full(3, bits, "<u2").tobytes(), 3, 3
            value = start
        entries += np.array([code, kind], "<u2").tobytes() + np.array([count, value], "<u4").tobytes()
    return b"II*\x00\x08\x00\x00\x00" + np.array([len(tags)], "<u2").tobytes() + entries + bytes(4) + extra + data


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits", None])
def test_compressed_grey_of_16_bits_is_read(compression: str | None) -> None:
    samples = RNG.integers(0, 2**16, (30, 20), np.uint16)
    assert (decode(saved(Image.fromarray(samples), "TIFF", compression=compression)).colors[:, :, 0] == samples).all()


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (np.zeros((9, 9), np.float32), "32-bit floating-point"),
        (np.zeros((9, 9), np.float16), "16-bit floating-point"),
        (np.zeros((9, 9), np.int16), "16-bit signed"),
        (np.zeros((9, 9), np.int8), "8-bit signed"),
        (np.zeros((9, 9), np.uint32), "32-bit samples"),
        (np.zeros((9, 9, 3), np.float32), "32-bit floating-point"),
    ],
)
def test_samples_without_a_range_are_refused(samples: np.ndarray, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        decode(tiff(samples, photometric="rgb" if samples.ndim == 3 else "minisblack"))


@pytest.mark.parametrize("mode", ["LAB", "YCbCr"])
def test_colours_that_are_not_read_are_refused(mode: str) -> None:
    with pytest.raises(FormatError, match="save it as"):
        decode(
            saved(Image.new("RGB", (9, 9)).convert("YCbCr") if mode == "YCbCr" else Image.new("LAB", (9, 9)), "TIFF")
        )


def test_channels_that_are_no_transparency_are_counted() -> None:
    samples = RNG.integers(0, 256, (9, 9, 5), np.uint8)
    decoded = decode(tiff(samples, photometric="rgb", extrasamples=["unspecified", "unspecified"]))
    assert decoded.undeclared == 2 and decoded.alpha is None and (decoded.colors == samples[:, :, :3]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("planar", [False, True])
def test_every_orientation_is_turned_upright(orientation: int, planar: bool) -> None:
    samples = RNG.integers(0, 256, (5, 7, 3), np.uint8)
    file = tiff(
        np.moveaxis(samples, 2, 0) if planar else samples,
        photometric="rgb",
        planarconfig="separate" if planar else "contig",
        extratags=[(274, 3, 1, orientation, True)],
    )
    turned = samples.swapaxes(0, 1) if orientation > 4 else samples
    expected = {1: turned, 2: turned[:, ::-1], 3: turned[::-1, ::-1], 4: turned[::-1]} | {
        5: turned, 6: turned[:, ::-1], 7: turned[::-1, ::-1], 8: turned[::-1]
    }  # fmt: skip
    assert (decode(file).colors == expected[orientation]).all()


def pyramid(*kinds: int) -> bytes:
    """A TIFF of pages of these kinds (NewSubfileType); each is twice as dark as the one before."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        for number, kind in enumerate(kinds):
            page = np.full((16, 16), 200 >> number, np.uint8) if kind != 4 else np.ones((16, 16), bool)
            file.write(page, subfiletype=kind, photometric="minisblack")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kinds", "pictures"),
    [((0,), [0]), ((0, 1, 1), [0]), ((1, 0), [1]), ((0, 4), [0]), ((0, 2), [0, 1]), ((2, 1, 2, 1), [0, 2])],
)
def test_reduced_copies_and_masks_are_no_pages(kinds: tuple[int, ...], pictures: list[int]) -> None:
    file = pyramid(*kinds)
    assert count_pictures(file) == len(pictures)
    assert [int(decode(file, page).colors[0, 0, 0]) for page in range(len(pictures))] == [200 >> n for n in pictures]


def test_a_stack_in_one_page_is_refused() -> None:
    stack = tiff(RNG.integers(1, 255, (4, 16, 16), np.uint8), imagej=True)
    assert count_pictures(stack) == 4
    volume = tiff(
        RNG.integers(1, 255, (4, 16, 16), np.uint8), volumetric=True, tile=(4, 16, 16), photometric="minisblack"
    )
    with pytest.raises(FormatError, match="4 pictures"):
        decode(volume)
    with pytest.raises(FormatError, match="stack of 4 images"):
        decode(volume, 0)


def test_missing_strips_are_an_error() -> None:
    file = tiff(RNG.integers(1, 255, (64, 64), np.uint8), rowsperstrip=8)
    with pytest.raises(FormatError, match="half-written"):
        decode(file[:-100])


def test_a_file_whose_later_pages_are_lost_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    pages = tiff(RNG.integers(1, 255, (3, 32, 32), np.uint8), photometric="minisblack")
    with tifffile.TiffFile(io.BytesIO(pages)) as file:
        second = file.pages[1].offset
    with pytest.raises(FormatError, match="cannot be read"):
        decode(pages[:second])
    assert not capfd.readouterr().err


def test_grey_of_16_bits_with_transparency_is_read() -> None:
    samples = RNG.integers(0, 2**16, (9, 8, 2), np.uint16)
    decoded = decode(tiff(samples, photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"]))
    assert (decoded.colors[:, :, 0] == samples[:, :, 0]).all()
    assert decoded.alpha is not None and (decoded.alpha == samples[:, :, 1]).all()
