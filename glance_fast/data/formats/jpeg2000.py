"""JPEG 2000 (JP2 files and bare codestreams): grey of up to 16 bits in the range that it states, colours of 8."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from glance_fast.data.formats.decoded import Decoded, FormatError, unfinished
from glance_fast.data.formats.pillow import read_frame

SIGNATURE, CODESTREAM = b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"
_END_OF_CODESTREAM = b"\xff\xd9"
_COMPONENTS = 42  # bytes before the first component's precision in a codestream


@dataclass(frozen=True)
class _Component:
    precision: int
    signed: bool
    subsampling: tuple[int, int]


def read_jpeg_2000(data: bytes) -> Decoded:
    """Decode a file of a single codestream; raises FormatError."""
    codestreams = [*_codestreams(data)]
    if not codestreams or not codestreams[0].startswith(CODESTREAM):
        raise FormatError("cannot be read: it holds no JPEG 2000 image; save it again")
    if len(codestreams) > 1:
        raise FormatError(f"holds {len(codestreams)} images, of which the first alone is read; save each as a file")
    if not codestreams[0].endswith(_END_OF_CODESTREAM):
        raise unfinished()
    first, *others = components = _components(codestreams[0])
    if any(component.signed or component.subsampling != (1, 1) for component in components):
        raise FormatError("holds signed or subsampled components, which are not read; save it as PNG")
    if any(other.precision != first.precision for other in others) or not (
        first.precision == 8 or (8 < first.precision <= 16 and not others)
    ):
        depths = ", ".join(str(component.precision) for component in components)
        raise FormatError(
            f"holds {len(components)} components of {depths} bits; JPEG 2000 is read with 8 bits, or grey with 9 to "
            "16: save it as 16-bit PNG or TIFF"
        )
    decoded = read_frame(data, "JPEG2000")
    if first.precision == 8:
        return decoded
    # Pillow shifts the samples up to 16 bits.
    colors = (decoded.colors >> (16 - first.precision)).astype(np.uint16)
    bits = first.precision if first.precision < 16 else None
    return replace(decoded, colors=colors, white=2**first.precision - 1, bits=bits)


def count_codestreams(data: bytes) -> int:
    """The number of images in a file."""
    return len([*_codestreams(data)])


def _codestreams(data: bytes) -> Iterator[bytes]:
    if data.startswith(CODESTREAM):
        yield data
        return
    at = 0
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if length == 1 and at + 16 <= len(data):
            (length,), start = struct.unpack_from(">Q", data, at + 8), at + 16
        end = len(data) if length == 0 else at + length
        if end < start or end > len(data):
            raise FormatError("cannot be read: it is truncated or damaged; copy it again")
        if name == b"jp2c":
            yield data[start:end]
        at = end


def _components(codestream: bytes) -> list[_Component]:
    (count,) = struct.unpack_from(">H", codestream, _COMPONENTS - 2)
    sizes = codestream[_COMPONENTS : _COMPONENTS + 3 * count]
    if count == 0 or len(sizes) < 3 * count:
        raise FormatError("cannot be read: its header is damaged; copy it again")
    return [
        _Component((depth & 0x7F) + 1, depth > 0x7F, (x, y)) for depth, x, y in zip(*[iter(sizes)] * 3, strict=True)
    ]
