"""Image files as bytes, for kinds, depths and faults that libraries do not write."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png_chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file, with its checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, bits: int, color: int, rows: bytes, *chunks: bytes) -> bytes:
    """A PNG file of filtered `rows`; other `chunks` follow its header."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    parts = [png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", zlib.compress(rows)), png_chunk(b"IEND", b"")]
    return PNG_SIGNATURE + b"".join(parts)


def png_16(samples: NDArray[Any], *chunks: bytes) -> bytes:
    """A 16-bit PNG file of samples [H, W], [H, W, 3] or [H, W, 4]."""
    color = {1: 0, 2: 4, 3: 2, 4: 6}[samples.shape[2] if samples.ndim == 3 else 1]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return png(samples.shape[1], samples.shape[0], 16, color, rows, *chunks)


def pgm(samples: NDArray[Any], white: int) -> bytes:
    """A PGM or PPM file of samples [H, W] or [H, W, 3], whose header states `white` as the largest."""
    kind = b"P6" if samples.ndim == 3 else b"P5"
    header = b"%s %d %d %d\n" % (kind, samples.shape[1], samples.shape[0], white)
    return header + samples.astype(np.uint8 if white < 256 else ">u2").tobytes()


def tiff(samples: NDArray[Any], **options: Any) -> bytes:
    """A TIFF file by tifffile, with options of its `imwrite`."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **options)
    return buffer.getvalue()


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """A file by Pillow, with options of its `save`."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def half_written(whole: bytes, kept: float = 0.5) -> bytes:
    """A file of full size with zeros behind its first part, as a copy that is not done leaves it."""
    cut = int(len(whole) * kept)
    return whole[:cut] + bytes(len(whole) - cut)
