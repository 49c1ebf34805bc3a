"""BMP: complete to its last row."""

from __future__ import annotations

import struct

from glance_fast.data.formats.decoded import Decoded, check_tail, unfinished
from glance_fast.data.formats.pillow import read_frame

_RUN_LENGTH = (1, 2)
_END_OF_BITMAP = b"\x00\x01"


def read_bmp(data: bytes) -> Decoded:
    """Decode a BMP; raises FormatError for a half-written file."""
    (start,) = struct.unpack_from("<I", data, 10)
    # The compression, where the header is long enough to have it.
    compression = struct.unpack_from("<I", data, 30)[0] if struct.unpack_from("<I", data, 14)[0] >= 40 else 0
    if compression not in _RUN_LENGTH:
        check_tail(data[start:])
    elif not data.rstrip(b"\x00").endswith(_END_OF_BITMAP):
        raise unfinished()
    return read_frame(data, "BMP")
