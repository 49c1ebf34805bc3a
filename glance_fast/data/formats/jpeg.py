"""JPEG: a file without its end marker is half-written, and what libjpeg warns of is an error."""

from __future__ import annotations

import struct

import simplejpeg

from glance_fast.data.formats.decoded import Decoded, unfinished
from glance_fast.data.formats.pillow import opened, read_frame, rotated

_END, _START_OF_SCAN = b"\xff\xd9", 0xDA


def read_jpeg(data: bytes, frame: int) -> Decoded:
    """Decode a JPEG, or a view of a multi-picture JPEG; raises FormatError for a half-written file."""
    _check_end(data)
    with opened(data, "JPEG") as image:
        if frame:
            return read_frame(data, "JPEG", frame)
        # Pillow swallows libjpeg's warnings, such as that of data that end early and are filled with grey.
        pixels = simplejpeg.decode_jpeg(data, "CMYK" if image.mode == "CMYK" else "RGB", strict=True)
        return read_frame(data, "JPEG") if image.mode == "CMYK" else Decoded(rotated(pixels, image))


def _check_end(data: bytes) -> None:
    """Raise FormatError without an end marker behind the first scan, whose compressed data cannot contain it."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = struct.unpack_from(">xBH", data, at)
        if marker == 0xFF:  # padding before a marker
            at += 1
            continue
        at += 2 + length
        if marker == _START_OF_SCAN:
            if data.find(_END, at) >= 0:
                return
            break
    raise unfinished()
