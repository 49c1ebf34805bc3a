"""PGM and PPM (P2, P3, P5, P6): samples as they are stored, in the range that the header states."""

from __future__ import annotations

import re

import numpy as np

from glance_fast.data.formats.decoded import Array, Decoded, FormatError, check_count, check_size, check_tail

SIGNATURES = {b"P2", b"P3", b"P5", b"P6"}

# Kind, width, height and largest value, between white space and comments; one white space ends the header. Every
# alternative begins with another character, so that no header takes long to match.
_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_HEADER = re.compile(rb"P([2356])" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,5})\s")
_MAX_HEADER = 65536
_END = re.compile(rb"\s*\Z")


def read_netpbm(data: bytes, image: int) -> Decoded:
    """Decode an image of a file, counted from 0; raises FormatError."""
    return _decode(data[_images(data)[image]])


def count_netpbm(data: bytes) -> int:
    """The number of images in a file: binary images may follow each other."""
    return len(_images(data))


def _images(data: bytes) -> list[slice]:
    """Where the bytes of each image of a file are; white space may follow the last."""
    images, at = list[slice](), 0
    while not images or _END.match(data, at) is None:
        header = _header(data, at)
        end = header.end() + _byte_count(header) if header[1] in (b"5", b"6") else len(data)
        images.append(slice(at, end))
        check_count(len(images))
        at = end
    return images


def _decode(data: bytes) -> Decoded:
    header = _header(data)
    kind, width, height, white = (int(group) for group in header.groups())
    channels = 3 if kind in (3, 6) else 1
    samples = _plain(data[header.end() :], width * height * channels) if kind in (2, 3) else _binary(data, header)
    if samples.max() > white:
        raise FormatError(
            f"holds a sample of {samples.max()}, and its header states {white} as the largest; save it again"
        )
    colors: Array = samples.reshape(height, width, channels).astype(np.uint8 if white < 256 else np.uint16)
    return Decoded(colors, white=white, bits=None if white == 65535 else white.bit_length())


def _header(data: bytes, at: int = 0) -> re.Match[bytes]:
    header = _HEADER.match(data, at, at + _MAX_HEADER)
    if header is None:
        raise FormatError("has no header of a PGM or PPM file (P2, P3, P5 or P6); save it again")
    check_size(int(header[2]), int(header[3]))
    if not 0 < int(header[4]) < 65536:
        raise FormatError(f"states {int(header[4])} as its largest sample; legal are 1 to 65535")
    return header


def _byte_count(header: re.Match[bytes]) -> int:
    kind, width, height, white = (int(group) for group in header.groups())
    return width * height * (3 if kind == 6 else 1) * (1 if white < 256 else 2)


def _binary(data: bytes, header: re.Match[bytes]) -> Array:
    expected, body = _byte_count(header), data[header.end() :]
    if len(body) < expected:
        raise FormatError(f"is truncated or half-written: {len(body)} bytes of {expected}; copy it again")
    deep = int(header[4]) > 255
    samples = np.frombuffer(body[:expected], ">u2" if deep else np.uint8)
    check_tail(body[:expected], np.uint16 if deep else np.uint8)
    return samples


def _plain(body: bytes, expected: int) -> Array:
    tokens = re.sub(rb"#[^\r\n]*", b"", body).split()
    if len(tokens) != expected or not all(token.isdigit() and len(token) <= 5 for token in tokens):
        raise FormatError(f"is truncated or damaged: {len(tokens)} samples of {expected}; save it again")
    return np.array(tokens).astype(np.uint32)
