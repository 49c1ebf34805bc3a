"""Photographs that teach nothing: copies of others, and those of a single colour; how many others a run needs."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glance_fast.data.text import printable
from glance_fast.errors import DataError

# The covariance of a location needs two photographs.
MIN_TRAINING_PHOTOS = 2
# A photograph whose grey levels deviate by less than this from their mean is of a single colour: what is left is noise.
MIN_CONTRAST = 0.5
# Photographs whose pixels deviate by less than this from one photograph to the next, in grey levels, may be all of one
# part: photographs of different parts, aligned as well as those of bottles in MVTec AD, deviate by 6.
MIN_VARIATION = 2.0

Photos = NDArray[np.uint8]

log = logging.getLogger("glance_fast")


@dataclass(frozen=True)
class Requirement:
    """How many usable photographs a folder must have, what for, and what else would do."""

    count: int
    purpose: str
    alternative: str = ""

    def check(self, folder: Path, count: int, of: str) -> None:
        """Raise DataError if a folder with `count` usable photographs has too few; `of` describes all it has."""
        if count < self.count:
            raise DataError(
                f"{folder} has {of}; {self.purpose} needs {self.count}: give {self.count} or more{self.alternative}"
            )


def usable_photos(folder: Path, paths: Sequence[Path], photos: Photos, requirement: Requirement) -> NDArray[np.bool_]:
    """Which photographs, uint8 [n, H, W, 3], are different from all earlier ones and not of a single colour.

    Logs a warning for those that are not, and for photographs that hardly differ. Raises DataError if fewer are usable
    than required.
    """
    uniform = np.array([photo.std(axis=(0, 1)).max() < MIN_CONTRAST for photo in photos])
    copies = _copies(photos) & ~uniform
    usable: NDArray[np.bool_] = ~(copies | uniform)
    faults = " and ".join(
        f"{int(members.sum())} {fault} ({printable(paths[int(members.argmax())].name)} ...)"
        for members, fault in ((copies, "copies of others"), (uniform, "of a single colour"))
        if members.any()
    )
    if faults:
        of = f"{len(paths)} normal images, {faults} among them: {int(usable.sum())} can be used"
        requirement.check(folder, int(usable.sum()), of)
        log.warning("%s: %s", printable(str(folder)), of)
    if (variation := _variation(photos)) < MIN_VARIATION:
        log.warning(
            "%s: the images differ by %.2f of 255 grey levels on average; check that they show different parts",
            printable(str(folder)), variation,
        )  # fmt: skip
    return usable


def shared_photos(photos: Photos, others: Photos) -> int:
    """How many photographs of `others` are among `photos`, pixel for pixel."""
    known = set(_digests(photos))
    return sum(digest in known for digest in _digests(others))


def _digests(photos: Photos) -> list[bytes]:
    return [hashlib.sha256(photo.data).digest() for photo in photos]


def _copies(photos: Photos) -> NDArray[np.bool_]:
    """Which photographs have the pixels of an earlier one."""
    digests = _digests(photos)
    first = {digest: number for number, digest in reversed(list(enumerate(digests)))}
    return np.array([first[digest] != number for number, digest in enumerate(digests)])


def _variation(photos: Photos) -> float:
    """The standard deviation of a pixel over photographs, in grey levels, averaged over all pixels."""
    total, squares = np.zeros(photos.shape[1:]), np.zeros(photos.shape[1:])
    for photo in photos:
        pixels = photo.astype(np.float64)
        total, squares = total + pixels, squares + pixels**2
    variance = squares / len(photos) - (total / len(photos)) ** 2
    return float(np.sqrt(variance.clip(min=0)).mean())
