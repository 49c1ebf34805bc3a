"""What an evaluation gives: records of the test images, of each class of defects, and of all together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from glance_fast.data.datasets import Sample
from glance_fast.visualization.overlay import Scored

PRO_LIMIT = 0.3  # false-positive rate up to which the per-region overlap is integrated, as MVTec AD does


class Scorer(Protocol):
    """What an evaluation needs of an engine."""

    @property
    def threshold(self) -> float: ...
    @property
    def pixel_threshold(self) -> float: ...
    def score(self, img: NDArray[np.uint8], /) -> Scored: ...


@dataclass(frozen=True)
class ImageScore:
    """One scored test image; `path` is relative to the data folder, `defect` is "good" for a normal one."""

    path: str
    defect: str
    score: float
    p_value: float
    is_anomalous: bool


@dataclass(frozen=True)
class PixelMetrics:
    """How well the maps find the defects' pixels; `aupro` is integrated to a false-positive rate of 0.3."""

    auroc: float
    aupro: float
    f1_max: float
    f1_threshold: float


@dataclass(frozen=True)
class DefectRow:
    """One class of defects against the normal images; pixel metrics are None where no mask marks a pixel."""

    defect: str
    images: int
    image_auroc: float
    pixel_auroc: float | None
    aupro: float | None
    detection_rate: float


@dataclass(frozen=True)
class Timing:
    """Time of `engine.score` alone, one image a call, in milliseconds, after one untimed call."""

    images: int
    median_ms: float
    p95_ms: float
    images_per_second: float


@dataclass(frozen=True)
class Evaluation:
    """What a model does on a test folder; the two rates are at the engine's calibrated `threshold`."""

    data: str
    threshold: float
    pixel_threshold: float
    image_auroc: float
    f1_max: float
    f1_threshold: float
    pixel: PixelMetrics | None
    false_alarm_rate: float
    detection_rate: float
    defects: tuple[DefectRow, ...]
    timing: Timing
    images: tuple[ImageScore, ...]


@dataclass(frozen=True)
class Seen:
    """A sample with what the engine said of it; the mask is None where the folder has none."""

    sample: Sample
    row: ImageScore
    result: Scored
    mask: NDArray[np.bool_] | None
    seconds: float
