"""Ranges that files state: sBIT of PNG, the largest value of PGM and PPM, the precision of JPEG 2000."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from glance_fast.data.formats.decode import decode
from glance_fast.data.formats.decoded import FormatError
from tests.helpers.image_files import PNG_SIGNATURE, pgm, png_16, png_chunk, saved

RNG = np.random.default_rng(0)


def ramp(bits: int) -> NDArray[np.uint16]:
    """Values over the whole range of so many bits, [32, 64]."""
    return np.linspace(0, 2**bits - 1, 32 * 64).round().astype(np.uint16).reshape(32, 64)


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("channels", [1, 3])
def test_significant_bits_in_the_low_bits_of_a_png(bits: int, channels: int) -> None:
    samples = ramp(bits) if channels == 1 else np.dstack([ramp(bits)] * 3)
    decoded = decode(png_16(samples, png_chunk(b"sBIT", bytes([bits] * channels))))
    assert (decoded.white, decoded.bits) == (2**bits - 1, bits)
    assert (decoded.colors[:, :, 0] == ramp(bits)).all()


def scalings(twelve: NDArray[np.uint16]) -> list[NDArray[np.uint16]]:
    """12 bits in 16 as the standard allows: shifted, with repeated bits, multiplied."""
    return [twelve << 4, twelve << 4 | twelve >> 8, np.rint(twelve * (65535 / 4095)).astype(np.uint16)]


def test_significant_bits_scaled_to_all_16_as_the_standard_says() -> None:
    for scaled in scalings(ramp(12)):
        decoded = decode(png_16(scaled, png_chunk(b"sBIT", bytes([12]))))
        assert (decoded.white, decoded.bits) == (65535, 12)


@pytest.mark.parametrize("darker", [16, 64])
def test_scaled_samples_that_are_so_dark_that_they_may_be_bright_are_refused(darker: int) -> None:
    for scaled in scalings(ramp(12) // np.uint16(darker)):
        with pytest.raises(FormatError, match="states 12 significant bits"):
            decode(png_16(scaled, png_chunk(b"sBIT", bytes([12]))))


def test_a_png_without_significant_bits_states_no_range() -> None:
    decoded = decode(png_16(ramp(12)))
    assert (decoded.white, decoded.bits) == (65535, None)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("channels", [3, 4])
def test_a_png_of_16_bit_colours_keeps_all_bits(channels: int, interlaced: bool) -> None:
    samples = RNG.integers(0, 2**16, (13, 11, channels), np.uint16)
    decoded = decode(adam7(samples) if interlaced else png_16(samples))
    assert (decoded.colors == samples[:, :, :3]).all()
    if channels == 4:
        assert decoded.alpha is not None and (decoded.alpha == samples[:, :, 3]).all()


def adam7(samples: NDArray[np.uint16]) -> bytes:
    """An interlaced 16-bit PNG."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b"".join(
        b"\0" + row.astype(">u2").tobytes() for y, x, dy, dx in passes for row in samples[y::dy, x::dx] if row.size
    )
    color = 2 if samples.shape[2] == 3 else 6
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], 16, color, 0, 0, 1)
    chunks = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", zlib.compress(rows)), png_chunk(b"IEND", b"")]
    return PNG_SIGNATURE + b"".join(chunks)


def test_a_transparent_colour_of_a_16_bit_png_is_transparent() -> None:
    samples = RNG.integers(0, 2**16, (5, 7, 3), np.uint16)
    decoded = decode(png_16(samples, png_chunk(b"tRNS", samples[2, 3].astype(">u2").tobytes())))
    assert decoded.alpha is not None and decoded.alpha[2, 3] == 0 and np.count_nonzero(decoded.alpha == 0) == 1


@pytest.mark.parametrize("white", [1, 15, 100, 255, 1023, 4095, 16383, 4000, 65535])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_largest_value_of_a_pgm_is_its_white(white: int, channels: int) -> None:
    samples = RNG.integers(0, white, (6, 5, channels), np.uint16, endpoint=True)
    for file in (pgm(samples[:, :, 0] if channels == 1 else samples, white), plain(samples, white)):
        decoded = decode(file)
        assert decoded.white == white and (decoded.colors == samples).all()
        assert decoded.bits == (None if white == 65535 else white.bit_length())


def plain(samples: NDArray[np.uint16], white: int) -> bytes:
    """A PGM or PPM in decimal digits, with comments."""
    kind = "P3" if samples.shape[2] == 3 else "P2"
    header = f"{kind}\n# of a camera\n{samples.shape[1]} {samples.shape[0]} # width, height\n{white}\n"
    return (header + " ".join(str(value) for value in samples.ravel())).encode()


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (b"P5 2 2 4095\n" + bytes([0x20, 0, 0, 0, 0, 0, 0, 0]), "8192.*4095"),
        (b"P2 2 2 255\n1 2 3", "3 samples of 4"),
        (b"P2 2 2 255\n1 2 3 4 5", "5 samples of 4"),
        (b"P2 2 2 255\n1 2 -3 4", "damaged"),
        (b"P5 2 2 0\n1234", "largest sample"),
        (b"P5 2 2 70000\n1234", "largest sample"),
        (b"P5 0 2 255\n", "states 0x2 pixels: it is damaged"),
        (b"P5 99999 99999 255\n", "134,217,728"),
        (b"P5 2 2 255\n1234rest", "no header"),
        (b"P5 two 2 255\n", "no header"),
        (b"P5" + b"#\r" * 50_000, "no header"),
        (b"P5" + b" #\n" * 50_000, "no header"),
    ],
)
def test_a_damaged_pgm_is_an_error_at_once(file: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        decode(file)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_the_precision_of_jpeg_2000_is_its_range(bits: int) -> None:
    file = jpeg_2000_of_grey(ramp(bits), bits)
    decoded = decode(file)
    assert decoded.white == 2**bits - 1 and decoded.bits == (bits if bits < 16 else None)
    assert (decoded.colors[:, :, 0] == ramp(bits)).all()


def jpeg_2000_of_grey(samples: NDArray[np.uint16], bits: int) -> bytes:
    """A lossless codestream. Pillow writes 8 and 16 bits; others differ by a byte of the header and an offset."""
    if bits == 8:
        return saved(Image.fromarray(samples.astype(np.uint8)), "JPEG2000", no_jp2=True)
    offset = np.uint16(2**15 - 2 ** (bits - 1))
    whole = bytearray(saved(Image.fromarray(samples + offset), "JPEG2000", no_jp2=True))
    whole[42] = bits - 1
    return bytes(whole)


def test_a_second_image_in_jpeg_2000_is_refused() -> None:
    file = saved(Image.fromarray(ramp(8).astype(np.uint8)), "JPEG2000")
    twice = file + file[file.index(b"jp2c") - 4 :]
    with pytest.raises(FormatError, match="2 pictures"):
        decode(twice)
    with pytest.raises(FormatError, match="2 images"):
        decode(twice, 1)
