"""Images, classes and masks by their paths: MVTec AD's layout, a plain folder of normal images, files and globs."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glance_fast.data.images import IMAGE_SUFFIXES, read_gray
from glance_fast.errors import DataError

NORMAL = "good"


@dataclass(frozen=True)
class Sample:
    """A test image, its class ("good" if normal) and the path of its mask, None if it has no mask."""

    path: Path
    defect: str
    mask: Path | None

    @property
    def is_normal(self) -> bool:
        """Whether the image shows no defect."""
        return self.defect == NORMAL


def normal_images(folder: Path) -> list[Path]:
    """The normal images to train on, sorted: `train/good` of MVTec AD's layout, or a plain folder's own images.

    Raises DataError for a missing folder and for a folder without images.
    """
    _require_folder(folder)
    candidates = (folder / "train" / NORMAL, folder / "train", folder)
    directory = next(candidate for candidate in candidates if candidate.is_dir())
    paths = _images_in(directory)
    if not paths:
        raise DataError(
            f"{directory} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); put normal photographs into "
            f"{folder / 'train' / NORMAL}, or name a folder that holds them"
        )
    return paths


def test_samples(folder: Path) -> list[Sample]:
    """All test images of MVTec AD's layout: `test/<class>`, masks in `ground_truth/<class>/<stem>_mask.png`.

    A class without a `ground_truth` folder has no masks. Raises DataError for a missing folder, an image without
    its mask, and a mask without its image.
    """
    _require_folder(folder)
    if not (folder / "test").is_dir():
        raise DataError(f"{folder} has no test folder; MVTec AD's layout has test/{NORMAL} and test/<defect>")
    classes = sorted(path for path in (folder / "test").iterdir() if path.is_dir())
    masks = folder / "ground_truth"
    _require_classes(classes, masks)
    samples = [sample for directory in classes for sample in _samples_in(directory, masks / directory.name)]
    if not samples:
        raise DataError(f"{folder / 'test'} holds no images in folders {NORMAL} and <defect>")
    return samples


test_samples.__test__ = False  # type: ignore[attr-defined]  # its name is the field's; pytest must not collect it


def read_mask(path: Path, size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask, bool [H, W], True on the defect (grey 128 and above).

    Raises DataError for a mask of another size than `size` (height, width), and for a mask that is dark but not black,
    as masks with the values 0 and 1 are; ImageError for a file that cannot be read.
    """
    gray = read_gray(path)
    mask: NDArray[np.bool_] = gray >= 128
    if gray.any() and not mask.any():
        raise DataError(f"{path} is no brighter than {gray.max()} of 255; a mask is white on the defect, else black")
    if mask.shape != size:
        raise DataError(
            f"{path} is {mask.shape[0]}x{mask.shape[1]} pixels and its image {size[0]}x{size[1]} (height x width); "
            "a mask must have its image's size"
        )
    return mask


def expand(inputs: Iterable[str | Path]) -> list[Path]:
    """The image files of paths, folders (searched recursively) and globs, without duplicates, in the order of `inputs`.

    Raises DataError naming an input that leads to no image.
    """
    unique: dict[Path, None] = {}
    for pattern in inputs:
        paths = _expand(Path(pattern))
        if not paths:
            raise DataError(f"{pattern} leads to no image ({', '.join(sorted(IMAGE_SUFFIXES))}); check the path")
        unique.update(dict.fromkeys(paths))
    return list(unique)


def _expand(pattern: Path) -> list[Path]:
    if os.path.isdir(pattern):  # unlike Path.is_dir, no OSError for a name that is too long
        return sorted(path for path in pattern.rglob("*") if _is_image(path))
    if os.path.isfile(pattern):
        return [pattern]
    matches = sorted(Path(match) for match in glob.glob(str(pattern), recursive=True))
    paths = [path for match in matches for path in (_expand(match) if match.is_dir() else [match])]
    return [path for path in paths if _is_image(path)]


def _samples_in(directory: Path, masks: Path) -> list[Sample]:
    """The samples of a class; its name is that of its `directory`."""
    images = _images_in(directory)
    if directory.name == NORMAL or not masks.is_dir():
        return [Sample(path, directory.name, None) for path in images]
    samples = [Sample(path, directory.name, masks / f"{path.stem}_mask.png") for path in images]
    expected = {sample.mask for sample in samples}
    for sample in samples:
        if sample.mask is not None and not sample.mask.is_file():
            raise DataError(f"{sample.path} has no mask {sample.mask}; add it, or take the image out")
    for mask in _images_in(masks):
        if mask not in expected:
            raise DataError(f"{mask} has no image {directory / mask.stem.removesuffix('_mask')}.*; take the mask out")
    return samples


def _require_classes(classes: list[Path], masks: Path) -> None:
    """Raise DataError for masks of a class without images: the class is misspelt or missing."""
    names = {directory.name for directory in classes}
    for directory in sorted(masks.iterdir()) if masks.is_dir() else []:
        if directory.is_dir() and directory.name not in names and _images_in(directory):
            raise DataError(
                f"{directory} has masks but there is no folder test/{directory.name}; add it, or take the masks out"
            )


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        fault = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {fault}; give a folder of images, or one in MVTec AD's layout")


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _is_image(path))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and not path.name.startswith(".")
