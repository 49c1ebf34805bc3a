"""Masks of defects: which files belong to an image, and their pixels.

The masks of `test/<class>/<stem>.<suffix>` are, in `ground_truth/<class>`, either a file `<stem>` or `<stem>_mask`
of any image suffix, or all files of a folder `<stem>`. An image has exactly one of these; all else is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glance_fast.data.images import read_gray
from glance_fast.errors import DataError

MASK_ENDING = "_mask"


def masks_of(
    images: Sequence[Path], folder: Path, masks: Sequence[Path], masks_folder: Path
) -> dict[Path, tuple[Path, ...]]:
    """The masks of each image of a class; `folder` and `masks_folder` are those of the class.

    Raises DataError for an image without a mask, a mask without an image, and wherever a mask could belong to several
    images or an image could have several masks.
    """
    by_name = _by_name(images, folder)
    assigned: dict[Path, list[Path]] = {image: [] for image in images}
    for mask in masks:
        names = _names(mask.relative_to(masks_folder))
        owners = {by_name[name] for name in names if name in by_name}
        if not owners:
            raise DataError(f"{mask} has no image {folder / names[-1]}.*; take the mask out, or add its image")
        if len(owners) > 1:
            first, second = sorted(owners)
            raise DataError(f"{mask} could belong to {first} and to {second}; give the images other names")
        assigned[owners.pop()].append(mask)
    for image, own in assigned.items():
        _require_clear(image, own, masks_folder / image.relative_to(folder).with_suffix(""))
    return {image: tuple(own) for image, own in assigned.items()}


def _by_name(images: Sequence[Path], folder: Path) -> dict[str, Path]:
    """The images of a class by their paths without suffixes."""
    by_name: dict[str, Path] = {}
    for image in images:
        name = image.relative_to(folder).with_suffix("").as_posix()
        if name in by_name:
            raise DataError(
                f"{by_name[name]} and {image} would have the same mask; let their names differ before the suffix"
            )
        by_name[name] = image
    return by_name


def _names(mask: Path) -> tuple[str, ...]:
    """The names of the images that a mask may belong to; `mask` is its path in its class's folder."""
    folder, name = mask.parent.as_posix(), mask.with_suffix("").as_posix()
    stem = name[: -len(MASK_ENDING)] if name.lower().endswith(MASK_ENDING) else name
    return tuple(dict.fromkeys((folder, name, stem)))


def _require_clear(image: Path, masks: Sequence[Path], own: Path) -> None:
    """Raise DataError unless an image has one mask file or one folder of them; `own` is the mask's path, no suffix."""
    if not masks:
        raise DataError(
            f"{image} has no mask {own}{MASK_ENDING}.png, {own}.png (any image suffix) or folder {own}; "
            "add it, or take the image out"
        )
    if len(masks) > 1 and any(mask.parent != own for mask in masks):
        raise DataError(
            f"{image} has several masks, {masks[0]} and {masks[1]}; keep one, or put all into a folder {own}"
        )


def read_masks(paths: Sequence[Path], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The union of an image's masks, bool [H, W], True on the defects; raises as `read_mask` does."""
    union = np.zeros(size, np.bool_)
    for path in paths:
        union |= read_mask(path, size)
    return union


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
