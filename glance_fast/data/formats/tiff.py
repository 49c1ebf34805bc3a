"""TIFF: its pages, what Pillow decodes rightly, what tifffile decodes, and what is refused."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from glance_fast.data.formats.decoded import Array, Decoded, FormatError, check_count, check_size, check_tail
from glance_fast.data.formats.decoder_warnings import tifffile_warnings_as_errors
from glance_fast.data.formats.pillow import read_16_bit_colors, read_frame

if TYPE_CHECKING:
    import tifffile

# Both byte orders of TIFF, and of BigTIFF.
SIGNATURES = {b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"}

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
_CHANNELS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}
_UNCOMPRESSED, _OLD_JPEG, _JPEG = 1, 6, 7
# Compressions that tifffile decodes by itself: none, deflate (two numbers), PackBits, LZMA.
_DECODED_BY_TIFFFILE = {1, 8, 32946, 32773, 34925}
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_PREMULTIPLIED = 1


@dataclass(frozen=True)
class Layout:
    """What the tags of a page say of its samples. `extra` holds a type per channel beside the colours."""

    photometric: int
    bits: tuple[int, ...]
    sample_format: int
    planar: bool
    extra: tuple[int, ...]
    compression: int

    @classmethod
    def of(cls, tag: Callable[[int, Any], Any]) -> Layout:
        """The layout by a function that gives a tag's value, or the default that it is called with."""
        samples = int(tag(277, 1))
        bits = _tuple(tag(258, 1))
        photometric = int(tag(262, WHITE_IS_ZERO))
        beside = max(0, samples - _CHANNELS.get(photometric, samples))
        return cls(
            photometric=photometric,
            bits=bits * samples if len(bits) == 1 else bits[:samples],
            sample_format=max(_tuple(tag(339, _UNSIGNED))) if _tuple(tag(339, _UNSIGNED)) != (4,) else _UNSIGNED,
            planar=int(tag(284, 1)) == 2 and samples > 1,
            # Without the tag, a channel beside the colours has always been read as transparency.
            extra=(*_tuple(tag(338, ())), *(2,) * beside)[:beside],
            compression=int(tag(259, _UNCOMPRESSED)),
        )

    @property
    def has_alpha(self) -> bool:
        """Whether the first channel beside the colours is declared as transparency."""
        return self.extra[:1] not in ((), (0,))

    @property
    def undeclared(self) -> int:
        """Number of channels beside the colours that are not declared as transparency."""
        return len(self.extra) - self.has_alpha

    def check(self) -> None:
        """Raise FormatError for samples that have no meaning here."""
        depth = self.bits[0]
        kind = {_SIGNED: "signed ", _FLOAT: "floating-point "}.get(self.sample_format, "")
        if kind or depth > 16:
            raise FormatError(
                f"holds {depth}-bit {kind}samples, which have no fixed range here; save it with 8 or 16 bits"
            )
        if self.photometric not in _CHANNELS or len(self.bits) < _CHANNELS[self.photometric]:
            raise FormatError(
                f"has colours of kind {self.photometric} (PhotometricInterpretation), which are not read; save it as "
                "grey or RGB"
            )
        if len(set(self.bits)) > 1 or depth not in (1, 2, 4, 8, *range(9, 17)):
            raise FormatError(f"holds samples of {', '.join(map(str, self.bits))} bits; save it with 8 or 16 bits")
        if self.compression == _OLD_JPEG or (self.photometric == YCBCR and self.compression != _JPEG):
            raise FormatError("holds YCbCr colours that are not compressed as JPEG is today; save it as RGB")
        if depth > 8 and (
            self.photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB) or self.extra[:1] == (_PREMULTIPLIED,)
        ):
            raise FormatError(f"holds {depth}-bit samples that are neither grey nor RGB; save it as RGB")

    @property
    def suits_pillow(self) -> bool:
        """Whether Pillow decodes all samples, and rightly."""
        if self.planar:
            return False
        if self.bits[0] == 16:
            return (self.photometric == RGB and not self.undeclared) or (
                self.photometric == BLACK_IS_ZERO and not self.extra
            )
        return self.bits[0] <= 8


def read_tiff(data: bytes, page: int) -> Decoded:
    """Decode a page, counted from 0 among the file's pictures; raises FormatError."""
    with _opened(data) as file:
        pages = _pictures(file)
        if (stacked := _stacked(file)) > 1:
            raise FormatError(f"is a stack of {stacked} images in one page; save each image as a file of its own")
        index = pages[page]
        picture = _page(file, index)
        check_size(picture.imagewidth, picture.imagelength)
        layout = Layout.of(lambda code, default: picture.tags.valueof(code, default))
        layout.check()
        _check_segments(picture, data, layout)
        if layout.suits_pillow:
            return _by_pillow(data, index, layout)
        return _by_tifffile(picture, data, layout)


def count_pages(data: bytes) -> int:
    """The number of pictures in a file. Pages declared as reduced-resolution copies or masks are none."""
    with _opened(data) as file:
        return max(len(_pictures(file)), _stacked(file))


@contextmanager
def _opened(data: bytes) -> Iterator[tifffile.TiffFile]:
    """A file whose pages are read lazily; raises FormatError at the end for what tifffile warned of."""
    import tifffile

    with tifffile_warnings_as_errors(), tifffile.TiffFile(io.BytesIO(data)) as file:
        yield file


def _pictures(file: tifffile.TiffFile) -> list[int]:
    """Indices of the pages that are pictures of their own, by NewSubfileType and SubfileType."""
    check_count(len(file.pages))
    pages = [_page(file, index) for index in range(len(file.pages))]
    kinds = [(int(page.tags.valueof(254, 0)), int(page.tags.valueof(255, 1))) for page in pages]
    pictures = [index for index, (new, old) in enumerate(kinds) if not new & 0b101 and old != 2]
    return pictures or [0]


def _stacked(file: tifffile.TiffFile) -> int:
    """The number of images in the first page: ImageJ writes large stacks so, and volumes have an ImageDepth."""
    images = int((file.imagej_metadata or {}).get("images", 1))
    return max(images if images > len(file.pages) else 1, int(_page(file, 0).tags.valueof(32997, 1)))


def _page(file: tifffile.TiffFile, index: int) -> tifffile.TiffPage:
    page: Any = file.pages[index]  # never a frame, which shares another page's tags: those are read on request alone
    return page  # type: ignore[no-any-return]


def _check_segments(page: tifffile.TiffPage, data: bytes, layout: Layout) -> None:
    """Raise FormatError where strips or tiles are missing, lie past the file's end, or are not yet written."""
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if len(segments) < np.prod(page.chunked) or any(
        count == 0 or start + count > len(data) for start, count in segments
    ):
        raise FormatError("is truncated or half-written: parts of its image are missing; copy it again")
    if layout.compression == _UNCOMPRESSED:
        inside = sorted(segment for segment, whole in zip(segments, _inside(page), strict=False) if whole)
        samples = b"".join(data[start : start + count] for start, count in inside)
        check_tail(samples, np.uint16 if layout.bits[0] == 16 else np.uint8)
    elif any(not any(data[start : start + count]) for start, count in segments):
        raise FormatError("is half-written: parts of its compressed data are zero; copy it again")


def _inside(page: tifffile.TiffPage) -> Iterator[bool]:
    """Whether each segment lies in the image as a whole; tiles at its edges are padded with zeros."""
    if not page.is_tiled:
        yield from (True for _ in page.dataoffsets)
        return
    rows, cols = -(-page.imagelength // page.tilelength), -(-page.imagewidth // page.tilewidth)
    for index in range(len(page.dataoffsets)):
        row, col = index // cols % rows + 1, index % cols + 1
        yield row * page.tilelength <= page.imagelength and col * page.tilewidth <= page.imagewidth


def _by_pillow(data: bytes, index: int, layout: Layout) -> Decoded:
    undeclared = layout.undeclared
    if layout.bits[0] <= 8 or layout.photometric == BLACK_IS_ZERO:
        return replace(read_frame(data, "TIFF", index), undeclared=undeclared)
    samples = read_16_bit_colors(data, "TIFF", index)
    alpha = samples[:, :, 3] if layout.has_alpha else None
    return Decoded(samples[:, :, :3], alpha, 65535, 65535, None, undeclared)


def _by_tifffile(page: tifffile.TiffPage, data: bytes, layout: Layout) -> Decoded:
    if layout.compression not in _DECODED_BY_TIFFFILE or layout.photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB):
        raise FormatError(
            "has a layout of samples (planar, inverted, or of unusual depth) that is not read with its compression, "
            f"{layout.compression}; save it again without compression"
        )
    samples = _unpacked(page, data, layout) if layout.bits[0] not in (8, 16) else np.asarray(page.asarray())
    if layout.planar:
        samples = np.moveaxis(samples, 0, -1)
    samples = samples.reshape(page.imagelength, page.imagewidth, -1)
    white = 2 ** layout.bits[0] - 1
    if layout.photometric == WHITE_IS_ZERO:
        samples = white - samples
    upright: Array = _upright(samples, int(page.tags.valueof(274, 1))).astype(np.uint8 if white < 256 else np.uint16)
    channels = _CHANNELS[layout.photometric]
    alpha = upright[:, :, channels] if layout.has_alpha else None
    bits = None if white == 65535 else layout.bits[0]
    return Decoded(upright[:, :, :channels], alpha, white, white, bits, layout.undeclared)


def _unpacked(page: tifffile.TiffPage, data: bytes, layout: Layout) -> NDArray[np.uint16]:
    """Samples of 9 to 15 bits that follow each other without a gap, uint16 [H, W * C]; each row begins at a byte."""
    bits, columns = layout.bits[0], page.imagewidth * len(layout.bits)
    if layout.compression != _UNCOMPRESSED or layout.planar or page.is_tiled or int(page.tags.valueof(266, 1)) != 1:
        raise FormatError(f"holds {bits}-bit samples that are compressed, planar or in tiles; save it with 16 bits")
    row = -(-columns * bits // 8)
    strips = zip(page.dataoffsets, page.databytecounts, strict=True)
    packed = np.frombuffer(b"".join(data[start : start + count] for start, count in strips), np.uint8)
    rows = packed[: row * page.imagelength].reshape(page.imagelength, row)
    digits = np.unpackbits(rows, axis=1, count=columns * bits).reshape(page.imagelength, columns, bits)
    padded = np.pad(digits, ((0, 0), (0, 0), (16 - bits, 0)))
    return np.packbits(padded, axis=2).view(">u2")[:, :, 0].astype(np.uint16)


def _upright(samples: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Samples [H, W, C] rotated and mirrored as the tag Orientation says."""
    if orientation >= 5:
        samples = samples.swapaxes(0, 1)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    cols = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return samples[rows, cols]


def _tuple(value: Any) -> tuple[int, ...]:
    return tuple(int(part) for part in value) if isinstance(value, tuple) else (int(value),)
