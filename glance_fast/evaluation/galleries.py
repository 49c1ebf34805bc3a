"""The pictures of a report: the images that its galleries would show if the evaluation ended now."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glance_fast.data.datasets import NORMAL
from glance_fast.evaluation.results import ImageScore, ScoredSample
from glance_fast.visualization.overlay import is_wide, side_by_side

GALLERY_PICTURES = 6  # at most, per gallery
PICTURE_SIZE = (1080, 720)  # largest width and height
PICTURE_BYTES = 100_000  # largest JPEG: thirty of them stay below 5 MB with base64


@dataclass(frozen=True)
class Picture:
    """A JPEG with its caption.

    `panels` names its equal parts from left to right, or from top to bottom when `stacked`; `right` says
    whether the verdict is right, None without a verdict.
    """

    jpeg: bytes
    title: str
    note: str
    panels: tuple[str, ...] = ()
    stacked: bool = False
    right: bool | None = None


@dataclass(frozen=True)
class Gallery:
    """A group of pictures under one heading."""

    heading: str
    note: str
    pictures: tuple[Picture, ...]


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """A picture uint8 [H, W, 3] as a JPEG of at most 1080x720 pixels and 100 kB."""
    image = Image.fromarray(pixels)
    image.thumbnail(PICTURE_SIZE)
    while True:
        for quality in (88, 75, 60, 45):
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=quality, optimize=True)
            if buffer.tell() <= PICTURE_BYTES:
                return buffer.getvalue()
        image.thumbnail((image.width * 3 // 4, image.height * 3 // 4))


class Galleries:
    """Pictures of the defects with the lowest scores, the normal images with the highest, and clear detections.

    Images are added one at a time. A picture is drawn when its image is among those that would be shown if no other
    followed, and dropped when it no longer is: who falls out never comes back, because others only come before it.
    """

    def __init__(self) -> None:
        self._pictures: dict[ImageScore, Picture] = {}

    def add(self, scored: ScoredSample) -> None:
        """Consider the next image."""
        images = [*self._pictures, scored.image_score]
        shown = {image for group in _shown(images) for image in group}
        if scored.image_score in shown:
            self._pictures[scored.image_score] = _picture(scored)
        self._pictures = {image: picture for image, picture in self._pictures.items() if image in shown}

    def galleries(self, images: Sequence[ImageScore]) -> list[Gallery]:
        """The galleries that are not empty; `images` are all that were added, in that order."""
        normal, defective = _by_kind(images)
        missed = sum(not image.is_anomalous for image in defective)
        alarms = sum(image.is_anomalous for image in normal)
        captions = (
            ("Lowest-scored defects", f"{missed} of {len(defective)} missed"),
            ("Highest-scored normal images", f"{alarms} of {len(normal)} false alarms"),
            ("Clear detections", "highest scores of each class of defects"),
        )
        groups = [tuple(self._pictures[image] for image in group) for group in _shown(images)]
        return [Gallery(*caption, group) for caption, group in zip(captions, groups, strict=True) if group]


def _by_kind(images: Sequence[ImageScore]) -> tuple[list[ImageScore], list[ImageScore]]:
    normal = [image for image in images if image.defect == NORMAL]
    return normal, [image for image in images if image.defect != NORMAL]


def _shown(images: Sequence[ImageScore]) -> tuple[list[ImageScore], list[ImageScore], list[ImageScore]]:
    """The lowest defects, the highest normal images and the clear detections among `images`."""
    normal, defective = _by_kind(images)
    rising = sorted(defective, key=lambda image: image.score)
    falling = sorted(normal, key=lambda image: -image.score)
    return (
        rising[:GALLERY_PICTURES],
        falling[:GALLERY_PICTURES],
        _clear_detections(rising[GALLERY_PICTURES:]),
    )


def _clear_detections(rising: Sequence[ImageScore]) -> list[ImageScore]:
    """Detected images by score: the highest of every class, then the second of every class, and so on."""
    ranked: list[tuple[int, float, ImageScore]] = []
    ranks: dict[str, int] = {}
    for image in reversed(rising):
        if image.is_anomalous:
            rank = ranks[image.defect] = ranks.get(image.defect, -1) + 1
            ranked.append((rank, -image.score, image))
    return [image for _, _, image in sorted(ranked, key=lambda entry: entry[:2])[:GALLERY_PICTURES]]


def _picture(scored: ScoredSample) -> Picture:
    truth = None if scored.is_normal else scored.mask
    pixels = jpeg(side_by_side(scored.image, scored.result, truth))
    verdict = "anomalous" if scored.is_anomalous else "normal"
    note = f"score {scored.score:.4g} · p-value {scored.image_score.p_value:.3g} · called {verdict}"
    panels = ("photo", "heat map", "ground truth") if truth is not None else ("photo", "heat map")
    right = scored.is_anomalous != scored.is_normal
    return Picture(pixels, scored.image_score.path, note, panels, is_wide(scored.image), right)
