"""Results of an evaluation: records per test image, per class of defects, and for the whole test set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from glance_fast.data.datasets import Sample
from glance_fast.visualization.overlay import Scored

PRO_LIMIT = 0.3  # false-positive rate up to which the per-region overlap is integrated, as MVTec AD does


class Scorer(Protocol):
    """The part of an engine that an evaluation uses."""

    @property
    def threshold(self) -> float: ...
    @property
    def pixel_threshold(self) -> float: ...
    def score(self, img: Any, /) -> Scored: ...


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
    """Metrics over the pixels of all maps; `aupro` is integrated up to a false-positive rate of 0.3."""

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
    """Time of `engine.score` alone, one image per call, in milliseconds, after one untimed call."""

    images: int
    median_ms: float
    p95_ms: float
    images_per_second: float


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a model on a test folder; both rates are at the engine's calibrated `threshold`."""

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
class ScoredSample:
    """A test sample with the engine's result and the seconds it took; `mask` is None where the folder has none.

    `image` is uint8 [H, W, 3]. It is as large as its image and map: take what is needed from it and let it go.
    """

    sample: Sample
    image: NDArray[np.uint8]
    image_score: ImageScore
    result: Scored
    mask: NDArray[np.bool_] | None
    seconds: float

    @property
    def is_normal(self) -> bool:
        """Whether the sample has no defect."""
        return self.sample.is_normal

    @property
    def defect(self) -> str:
        """The class of defects, "good" for a normal sample."""
        return self.sample.defect

    @property
    def score(self) -> float:
        """The image's anomaly score."""
        return self.image_score.score

    @property
    def is_anomalous(self) -> bool:
        """The verdict at the engine's threshold."""
        return self.image_score.is_anomalous
