"""JPEG: a file without its end marker is half-written, and what libjpeg warns of is an error."""

from __future__ import annotations

import re
import struct

import numpy as np
import simplejpeg
from PIL import Image

from glance_fast.data.formats.decoded import Decoded, FormatError
from glance_fast.data.formats.pillow import opened, read_frame, rotated

# In compressed data, 0xFF is followed by 0x00 or a restart marker; by anything else, it ends the data.
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
_END, _START_OF_SCAN = 0xD9, 0xDA


def read_jpeg(data: bytes, frame: int) -> Decoded:
    """Decode a JPEG, or a view of a multi-picture JPEG; raises FormatError for a half-written file."""
    _check_end(data)
    with opened(data, "JPEG") as image:
        if frame or image.mode not in ("L", "RGB"):
            return read_frame(data, "JPEG", frame)
        # Pillow swallows libjpeg's warnings, such as that of data that end early and are filled with grey.
        pixels = Image.fromarray(simplejpeg.decode_jpeg(data, "RGB", strict=True))
        return Decoded(np.asarray(rotated(pixels, image)))


def _check_end(data: bytes) -> None:
    at = 2
    while at + 4 <= len(data):
        match = _MARKER.match(data, at)
        if match is None:
            break
        at = match.end()
        marker = data[at - 1]
        if marker == _END:
            return
        if at + 2 > len(data):
            break
        at += struct.unpack_from(">H", data, at)[0]
        if marker == _START_OF_SCAN:
            found = _MARKER.search(data, at)
            if found is None:
                break
            at = found.start()
    if data[at : at + 2] != b"\xff\xd9":
        raise FormatError("cannot be read: it is truncated or half-written, its end marker is missing; copy it again")
