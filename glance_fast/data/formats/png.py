"""PNG: every chunk is checked; 16-bit samples keep all their bits, and sBIT states how many of them are used."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from glance_fast.data.formats.decoded import Array, Decoded, FormatError
from glance_fast.data.formats.pillow import opened, read_16_bit_colors, read_frame, upright

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, GREY_ALPHA, RGBA = 0, 2, 4, 6


def read_png(data: bytes, frame: int) -> Decoded:
    """Decode a frame; raises FormatError for a damaged or half-written file."""
    chunks = dict(reversed([*_chunks(data)]))  # of chunks with one name, the first
    header = chunks.get(b"IHDR", b"")
    if len(header) != 13:
        raise FormatError("has no header; save it again, or take it out")
    depth, color = header[8], header[9]
    if depth != 16:
        return read_frame(data, "PNG", frame)
    if color == GREY_ALPHA:
        raise FormatError("has 16-bit grey with an alpha channel, which is not read; save it without the alpha channel")
    if color == GREY:
        with opened(data, "PNG", frame) as image:
            samples = np.asarray(upright(image)).astype(np.uint16)[:, :, None]
    else:
        samples = read_16_bit_colors(data, "PNG", frame)
    colors, alpha = samples[:, :, :3], _alpha(samples, color, chunks.get(b"tRNS"))
    white, bits = _range(colors, chunks.get(b"sBIT"), 1 if color == GREY else 3)
    return Decoded(colors, alpha, white, 65535, bits)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and contents of the chunks of a complete file."""
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        (length,), name = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        end = at + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(memoryview(data)[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise FormatError(
                f"cannot be read: it is damaged or half-written at byte {at} (checksum of {name!r}); copy it again"
            )
        yield name, data[at + 8 : end]
        if name == b"IEND":
            return
        at = end + 4
    raise FormatError("cannot be read: it is truncated or half-written, its end is missing; copy it again")


def _alpha(samples: NDArray[np.uint16], color: int, transparent: bytes | None) -> Array | None:
    """The alpha channel, or the opacity that a transparent colour (chunk tRNS) gives."""
    if color == RGBA:
        return samples[:, :, 3]
    if transparent is None:
        return None
    key = np.frombuffer(transparent, ">u2")
    return np.where((samples == key).all(axis=2), 0, 65535).astype(np.uint16)


def _range(colors: NDArray[np.uint16], significant: bytes | None, channels: int) -> tuple[int, int | None]:
    """Largest sample and significant bits, None where the file does not state them.

    By the standard, samples are scaled to all 16 bits whatever sBIT says. Many cameras' programs leave them in the low
    bits: that is so where samples stay below 2^bits and are not those of a scaled, dark image.
    """
    bits = max(significant[:channels], default=16) if significant else 16
    if not 8 <= bits < 16:
        return 65535, None
    low_white = 2**bits - 1
    if int(colors.max()) > low_white:
        return 65535, bits
    step = 65535 / low_white
    if colors.any() and np.abs(colors - np.rint(colors / step) * step).max() <= 1:
        raise FormatError(
            f"states {bits} significant bits, and its samples may be dark ones of 16 bits or bright ones of {bits}; "
            "save it without the chunk sBIT, or as PGM"
        )
    return low_white, bits
