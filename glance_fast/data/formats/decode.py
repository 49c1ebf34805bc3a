"""A file's bytes as an image: the decoder is chosen by the first bytes, and by nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image, ImageFile, UnidentifiedImageError

from glance_fast.data.formats import jpeg2000, netpbm, png, tiff
from glance_fast.data.formats.bmp import read_bmp
from glance_fast.data.formats.decoded import MAX_PIXELS, Decoded, FormatError, check_tail
from glance_fast.data.formats.decoder_warnings import pillow_warnings_as_errors
from glance_fast.data.formats.jpeg import read_jpeg
from glance_fast.data.formats.pillow import count_frames, opened, read_frame

T = TypeVar("T")

SUFFIXES = frozenset(
    {".bmp", ".j2k", ".jfif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)


@dataclass(frozen=True)
class Format:
    """A format: whether a file's first bytes are its own, the number of its pictures, and how one is decoded."""

    accepts: Callable[[bytes], bool]
    count: Callable[[bytes], int]
    read: Callable[[bytes, int], Decoded]


def decode(data: bytes, page: int | None = None) -> Decoded:
    """Decode a picture of a file; `page` counts from 0 and may be None for a file of one picture.

    Raises FormatError for what cannot be decoded, or only in part.
    """
    return _guarded(lambda: _decode(data, page))


def count_pictures(data: bytes) -> int:
    """The number of pictures, pages or frames in a file; raises FormatError."""
    return _guarded(lambda: _format(data).count(data))


def _decode(data: bytes, page: int | None) -> Decoded:
    form = _format(data)
    pages = form.count(data)
    if page is None and pages != 1:
        raise FormatError(
            f"holds {pages} pictures (pages or frames), and one is meant; save each as a file of its own, or score all "
            "with 'glance-fast score --pages'"
        )
    if page is not None and not 0 <= page < pages:
        raise FormatError(f"holds {pages} pictures; page {page + 1} is none of them")
    return form.read(data, page or 0)


def _format(data: bytes) -> Format:
    if not data:
        raise FormatError(f"is empty; give {_legal()}")
    form = next((form for form in _FORMATS if form.accepts(data)), None)
    if form is None:
        raise FormatError(f"is not an image of a kind that can be read; give {_legal()}")
    return form


def _legal() -> str:
    return ", ".join(sorted(SUFFIXES))


def _guarded(step: Callable[[], T]) -> T:
    """The result of a step of decoding; whatever a decoder raises or warns of is a FormatError."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise FormatError(
            "is not read: this program lets Pillow fill truncated files with grey; set "
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES to False"
        )
    try:
        with pillow_warnings_as_errors():
            return step()
    except (FormatError, MemoryError):
        raise
    except Image.DecompressionBombError:  # far above MAX_PIXELS, Pillow itself refuses the header
        raise FormatError(f"is too large; files of up to {MAX_PIXELS:,} pixels are read: cut it into tiles") from None
    except UnidentifiedImageError:
        raise FormatError("cannot be read: it is damaged, or of a kind that is not read; save it again") from None
    except Exception as error:  # decoders raise errors of many classes: OSError, SyntaxError, struct.error, ...
        raise FormatError(f"cannot be read: {error}; save it again, or take it out") from error


def _frames(kind: str) -> Callable[[bytes], int]:
    def count(data: bytes) -> int:
        with opened(data, kind) as image:
            return count_frames(image)

    return count


def _read_webp(data: bytes, frame: int) -> Decoded:
    check_tail(data)
    return read_frame(data, "WEBP", frame)


_FORMATS = (
    Format(lambda data: data.startswith(png.SIGNATURE), _frames("PNG"), png.read_png),
    Format(lambda data: data.startswith(b"\xff\xd8\xff"), _frames("JPEG"), read_jpeg),
    Format(lambda data: data[:4] in tiff.SIGNATURES, tiff.count_pages, tiff.read_tiff),
    Format(lambda data: data.startswith(b"BM"), lambda data: 1, lambda data, page: read_bmp(data)),
    Format(lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP", _frames("WEBP"), _read_webp),
    Format(
        lambda data: data.startswith((jpeg2000.SIGNATURE, jpeg2000.CODESTREAM)),
        jpeg2000.count_codestreams,
        lambda data, page: jpeg2000.read_jpeg_2000(data),
    ),
    Format(lambda data: data[:2] in netpbm.SIGNATURES, netpbm.count_netpbm, netpbm.read_netpbm),
)
