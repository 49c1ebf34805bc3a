"""Files as they come: formats that are not meant, several pictures, half-written files, decoders' warnings."""

from __future__ import annotations

import io
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import ExifTags, Image

from glance_fast.data.formats.decode import count_pictures, decode
from glance_fast.data.formats.decoded import FormatError
from glance_fast.data.formats.decoder_warnings import pillow_warnings_as_errors
from tests.helpers.image_files import half_written, pgm, png, png_16, saved, tiff
from tests.helpers.images import textured_image

PHOTO = textured_image(96, 120) | np.uint8(1)  # without zeros
DEEP = PHOTO.astype(np.uint16) * 257

WHOLE = {
    "PNG": saved(Image.fromarray(PHOTO), "PNG"),
    "16-bit PNG": png_16(DEEP),
    "JPEG": saved(Image.fromarray(PHOTO), "JPEG"),
    "progressive JPEG": saved(Image.fromarray(PHOTO), "JPEG", progressive=True),
    "grey JPEG": saved(Image.fromarray(PHOTO[:, :, 0]), "JPEG"),
    "CMYK JPEG": saved(Image.fromarray(PHOTO).convert("CMYK"), "JPEG"),
    "BMP": saved(Image.fromarray(PHOTO), "BMP"),
    "TIFF": saved(Image.fromarray(PHOTO), "TIFF"),
    "TIFF in strips": tiff(PHOTO, rowsperstrip=8),
    "TIFF in tiles": tiff(PHOTO, tile=(16, 16)),
    "TIFF in planes": tiff(np.moveaxis(PHOTO, 2, 0), planarconfig="separate", photometric="rgb"),
    "16-bit TIFF": tiff(DEEP),
    "LZW TIFF": saved(Image.fromarray(PHOTO), "TIFF", compression="tiff_lzw"),
    "deflated TIFF": tiff(PHOTO, compression="zlib", rowsperstrip=8),
    "WebP": saved(Image.fromarray(PHOTO), "WEBP"),
    "lossless WebP": saved(Image.fromarray(PHOTO), "WEBP", lossless=True),
    "JPEG 2000": saved(Image.fromarray(PHOTO), "JPEG2000"),
    "codestream": saved(Image.fromarray(PHOTO), "JPEG2000", no_jp2=True),
    "PGM": pgm(PHOTO[:, :, 0], 255),
    "PPM": pgm(PHOTO, 255),
    "16-bit PGM": pgm(DEEP[:, :, 0], 65535),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_file_is_read(name: str) -> None:
    assert decode(WHOLE[name]).colors.shape[:2] == (96, 120)
    assert count_pictures(WHOLE[name]) == 1


@pytest.mark.parametrize("kept", [0.4, 0.7, 0.9])
@pytest.mark.parametrize("name", WHOLE)
def test_zeros_in_the_place_of_data_are_an_error(name: str, kept: float) -> None:
    with pytest.raises(FormatError):
        decode(half_written(WHOLE[name], kept))


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("name", WHOLE)
def test_a_truncated_file_is_an_error(name: str, kept: float) -> None:
    with pytest.raises(FormatError):
        decode(WHOLE[name][: int(len(WHOLE[name]) * kept)])


@pytest.mark.parametrize("name", ["PNG", "16-bit PNG"])
def test_a_changed_byte_of_a_png_is_an_error(name: str) -> None:
    whole = WHOLE[name]
    for at in range(8, len(whole), len(whole) // 50):
        with pytest.raises(FormatError):
            decode(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])


@pytest.mark.parametrize("name", ["JPEG", "grey JPEG", "CMYK JPEG"])
def test_a_jpeg_that_ends_early_and_then_properly_is_an_error(name: str) -> None:
    with pytest.raises(FormatError, match="premature end"):
        decode(WHOLE[name][: len(WHOLE[name]) // 2] + b"\xff\xd9")


def test_bytes_behind_a_jpeg_are_ignored() -> None:
    assert (decode(WHOLE["JPEG"] + bytes(5000)).colors == decode(WHOLE["JPEG"]).colors).all()


@pytest.mark.parametrize("kind", ["BMP", "TIFF"])
def test_a_dark_field_image_is_whole_though_it_ends_in_zeros(kind: str) -> None:
    dark = np.zeros((96, 120), np.uint8)
    dark[10:40, 20:70] = PHOTO[:30, :50, 0]
    assert (decode(saved(Image.fromarray(dark), kind)).colors[:, :, 0] == dark).all()
    assert not decode(saved(Image.fromarray(dark * np.uint8(0)), kind)).colors.any()


@pytest.mark.parametrize("kind", ["BMP", "TIFF"])
def test_a_mask_is_whole_though_its_end_is_black(kind: str) -> None:
    mask = np.full((96, 120), 255, np.uint8)
    mask[50:] = 0
    assert (decode(saved(Image.fromarray(mask), kind)).colors[:, :, 0] == mask).all()


@pytest.mark.parametrize("kind", ["GIF", "EPS", "ICO", "TGA", "PCX", "SGI", "PDF"])
def test_formats_that_are_not_meant_are_not_opened(kind: str) -> None:
    with pytest.raises(FormatError, match=r"not an image of a kind.*\.png"):
        decode(saved(Image.fromarray(PHOTO), kind))


FRAMES = [Image.fromarray(textured_image(40, 50, seed)) for seed in range(3)]
SEVERAL = {
    "TIFF": saved(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]),
    "BigTIFF": saved(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:], big_tiff=True),
    "tifffile": tiff(np.stack([np.asarray(frame) for frame in FRAMES]), photometric="rgb"),
    "PNG": saved(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]),
    "WebP": saved(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:], lossless=True),
    "PPM": b"".join(pgm(np.asarray(frame), 255) for frame in FRAMES),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_several_pictures_are_an_error_that_gives_their_number(name: str) -> None:
    with pytest.raises(FormatError, match=r"3 pictures.*--pages"):
        decode(SEVERAL[name])


@pytest.mark.parametrize("name", SEVERAL)
def test_each_of_several_pictures_is_read(name: str) -> None:
    assert count_pictures(SEVERAL[name]) == 3
    for page, frame in enumerate(FRAMES):
        assert (decode(SEVERAL[name], page).colors == np.asarray(frame)).all()
    with pytest.raises(FormatError, match="page 4"):
        decode(SEVERAL[name], 3)


@pytest.mark.parametrize(
    ("kind", "pictures"), [(0x020002, 3), (0x020001, 3), (0x010001, 1), (0x010002, 1), (0, 1)], ids=hex
)
def test_views_of_a_stereo_jpeg_are_pictures_and_previews_are_none(kind: int, pictures: int) -> None:
    file = saved(FRAMES[0], "MPO", save_all=True, append_images=FRAMES[1:])
    # Pillow writes 0x030000 for the first frame and 0 for others, in entries of 16 bytes.
    start = file.index(b"MPF\x00")
    first = file.rindex(struct.pack("<L", 0x030000), start, start + 200)
    for number in range(3) if kind >> 16 == 2 else range(1, 3):
        at = first + 16 * number
        file = file[:at] + struct.pack("<L", kind) + file[at + 4 :]
    assert count_pictures(file) == pictures
    assert (decode(file, 0).colors == decode(saved(FRAMES[0], "JPEG")).colors).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_warning_of_pillow_is_an_error(kind: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "camera" * 20
    with pytest.raises(FormatError, match="larger than file"):
        decode(saved(Image.fromarray(PHOTO), kind, exif=exif.tobytes()[:-40]))


def test_concurrent_readers_leave_the_filters_of_warnings_as_they_were() -> None:
    def read(_: int) -> None:
        with pillow_warnings_as_errors():
            decode(WHOLE["PNG"])

    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(40)))
    assert list(warnings.filters) == before


def test_warnings_of_others_stay_warnings() -> None:
    with pillow_warnings_as_errors(), pytest.warns(UserWarning, match="of another library"):
        warnings.warn("of another library", stacklevel=1)


def test_a_png_with_rows_missing_is_an_error() -> None:
    with pytest.raises(FormatError, match="cannot be read"):
        decode(png(3, 3, 8, 2, b"\0" * 12))


def test_a_jpeg_is_decoded_as_pillow_does() -> None:
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        file = saved(Image.fromarray(PHOTO), "JPEG", subsampling=subsampling, quality=80)
        assert (decode(file).colors == np.asarray(Image.open(io.BytesIO(file)))).all()


def test_thousands_of_pages_are_refused_at_once() -> None:
    entry = struct.pack("<HHHLL", 1, 256, 3, 1, 5)
    tiff_pages = b"".join(entry + struct.pack("<L", 8 + 18 * number) for number in range(1, 50_000))
    for file in (b"II*\x00\x08\x00\x00\x00" + tiff_pages + entry + bytes(4), b"P5 1 1 255\n1" * 50_000):
        with pytest.raises(FormatError, match="more than 1,000 pages"):
            count_pictures(file)


def test_a_run_length_bitmap_without_its_end_is_an_error() -> None:
    runs = b"".join(bytes([4, 10 * row + 1, 0, 0]) for row in range(4)) + b"\x00\x01"
    palette = b"".join(bytes([level, level, level, 0]) for level in range(256))
    header = struct.pack("<LllHHLLllLL", 40, 4, 4, 1, 8, 1, len(runs), 0, 0, 256, 0) + palette
    file = b"BM" + struct.pack("<LLL", 14 + len(header) + len(runs), 0, 14 + len(header)) + header + runs
    assert decode(file).colors[:, 0, 0].tolist() == [31, 21, 11, 1]
    for cut in (file[:-6], half_written(file, 1 - 6 / len(file))):
        with pytest.raises(FormatError, match="end marker"):
            decode(cut)
