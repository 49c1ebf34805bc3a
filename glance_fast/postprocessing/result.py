"""The result of an image: score, decision and anomaly map, from the scores of its patches."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from glance_fast.config import ModelConfig
from glance_fast.data.images import is_tensor
from glance_fast.data.prepare import Prepared
from glance_fast.postprocessing.anomaly_map import bilinear_indices, image_score, interpolate, map_weights
from glance_fast.postprocessing.calibration import Calibration

if TYPE_CHECKING:
    from torch import Tensor

Map = TypeVar("Map", NDArray[np.float32], "Tensor")


# A line's images have one size: the indices of 1024 x 1024 pixels take longer to compute than to use.
_cached_indices = lru_cache(maxsize=64)(bilinear_indices)


@dataclass(frozen=True)
class Result(Generic[Map]):
    """The engine's result for an image.

    `score`: the image's anomaly score. `p_value`: share of normal images that score as high. `is_anomalous`: `score` is
    above `threshold`. `map`: anomaly scores, float32 [H, W] in the image's own size; for a tensor image a tensor on its
    device. `pixel_threshold`: the threshold of `mask`.
    """

    score: float
    p_value: float
    threshold: float
    is_anomalous: bool
    map: Map = field(repr=False)
    pixel_threshold: float

    @property
    def mask(self) -> Any:
        """Pixels whose map value is above the pixel threshold, bool [H, W]."""
        return self.map > self.pixel_threshold


def finish(grid: Any, image: Prepared, config: ModelConfig, calibration: Calibration) -> Result[Any]:
    """The result of an image from its grid of scores, float32 [gy, gx], an array or a tensor."""
    scores = grid.cpu().numpy() if is_tensor(grid) else grid
    score = image_score(scores, config.top_k)
    return Result(
        score=score,
        p_value=calibration.p_value(score),
        threshold=calibration.threshold,
        is_anomalous=score > calibration.threshold,
        map=_tensor_map(grid, image, config) if image.device is not None else _array_map(scores, image, config),
        pixel_threshold=calibration.pixel_threshold,
    )


def _array_map(scores: NDArray[np.float32], image: Prepared, config: ModelConfig) -> NDArray[np.float32]:
    rows, cols = (_cached_indices(*axis) for axis in zip(image.size, config.patches, image.window, strict=True))
    return interpolate(scores, rows, cols)


def _tensor_map(grid: Any, image: Prepared, config: ModelConfig) -> Tensor:
    from glance_fast.data.tensors import resample

    rows, cols = (map_weights(*axis) for axis in zip(image.size, config.patches, image.window, strict=True))
    return resample(grid, rows, cols, image.device)
