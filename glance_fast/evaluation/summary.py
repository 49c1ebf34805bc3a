"""Adds up scored test images, one at a time, to the figures of an evaluation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glance_fast.data.datasets import NORMAL, Sample
from glance_fast.evaluation.metrics import auroc, f1_max
from glance_fast.evaluation.pixel_pool import ALL, PixelPool
from glance_fast.evaluation.results import (
    PRO_LIMIT,
    DefectRow,
    Evaluation,
    ImageScore,
    PixelMetrics,
    ScoredSample,
    Scorer,
    Timing,
)


class Summary:
    """The figures of scored test images; their maps are written to a temporary file in `folder`, as by PixelPool.

    A context manager; raises SaveError when the disk refuses.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._pool = PixelPool(folder)
        self._images: list[ImageScore] = []
        self._seconds: list[float] = []

    def __enter__(self) -> Summary:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.__exit__(kind, error, at)

    def add(self, scored: ScoredSample) -> None:
        """Add an image; raises DataError for a mask of another size than its map."""
        if scored.mask is not None:
            self._pool.add(scored.defect, scored.mask, scored.result.map, f"{scored.sample.path}: its mask")
        self._images.append(scored.image_score)
        self._seconds.append(scored.seconds)

    def has_both_kinds(self) -> bool:
        """Whether there are normal and defective images, without which there is no evaluation."""
        return len({image.defect == NORMAL for image in self._images}) == 2

    def evaluation(self, engine: Scorer, folder: Path) -> Evaluation:
        """The figures of all images so far, normal and defective; `folder` gives the data's name."""
        normal = [image for image in self._images if image.defect == NORMAL]
        defective = [image for image in self._images if image.defect != NORMAL]
        labels, scores = _labels_and_scores(self._images)
        best_f1, best_threshold = f1_max(labels, scores)
        pixel = self._pool.metrics(PRO_LIMIT)
        names = sorted({image.defect for image in defective})
        classes = [[image for image in defective if image.defect == name] for name in names]
        return Evaluation(
            data=folder.resolve().name,
            threshold=float(engine.threshold),
            pixel_threshold=float(engine.pixel_threshold),
            image_auroc=float(auroc(labels, scores)),
            f1_max=float(best_f1),
            f1_threshold=float(best_threshold),
            pixel=pixel.get(ALL),
            false_alarm_rate=_alarm_rate(normal),
            detection_rate=_alarm_rate(defective),
            defects=tuple(
                _defect_row(normal, members, pixel.get(name)) for name, members in zip(names, classes, strict=True)
            ),
            timing=_timing(self._seconds),
            images=tuple(self._images),
        )


def values_size(samples: Sequence[Sample]) -> int:
    """Bytes that the float32 maps of these images take, by the headers of their files.

    A file that Pillow does not know counts as empty; whether it is an image is found when it is read.
    """
    return sum(4 * _pixels(sample.path) for sample in samples if sample.is_normal or sample.masks)


def _pixels(path: Path) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how large a file may be is checked when it is read
        try:
            with Image.open(path) as image:
                return image.width * image.height
        except Exception:  # noqa: BLE001 (decoders raise errors of many classes)
            return 0


def _labels_and_scores(images: Sequence[ImageScore]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    return np.array([image.defect != NORMAL for image in images]), np.array([image.score for image in images])


def _alarm_rate(images: Sequence[ImageScore]) -> float:
    return sum(image.is_anomalous for image in images) / len(images)


def _defect_row(normal: Sequence[ImageScore], defective: Sequence[ImageScore], pixel: PixelMetrics | None) -> DefectRow:
    return DefectRow(
        defect=defective[0].defect,
        images=len(defective),
        image_auroc=float(auroc(*_labels_and_scores([*normal, *defective]))),
        pixel_auroc=pixel.auroc if pixel else None,
        aupro=pixel.aupro if pixel else None,
        detection_rate=_alarm_rate(defective),
    )


def _timing(seconds: Sequence[float]) -> Timing:
    median, p95 = np.percentile(seconds, [50, 95]) * 1000
    return Timing(len(seconds), float(median), float(p95), len(seconds) / max(sum(seconds), 1e-9))
