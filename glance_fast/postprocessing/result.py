"""The result of one image: the score, the decision and the anomaly map, from the scores of its patches."""

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


@dataclass(frozen=True)
class Result(Generic[Map]):
    """What the engine says of one image.

    `score`: the image's anomaly score. `p_value`: share of normal images that score as high. `is_anomalous`:
    score above `threshold`. `map`: float32 [H, W] in the image's own size, a tensor on the image's device
    when the image was one.
    """

    score: float
    p_value: float
    threshold: float
    is_anomalous: bool
    map: Map = field(repr=False)
    pixel_threshold: float

    @property
    def mask(self) -> Any:
        """Pixels that the map marks, bool [H, W]: above the pixel threshold."""
        return self.map > self.pixel_threshold


def finish(grid: Any, image: Prepared, config: ModelConfig, calibration: Calibration) -> Result[Any]:
    """The result of an image whose patches score `grid`, float32 [gy, gx], an array or a tensor."""
    scores = grid.cpu().numpy() if is_tensor(grid) else grid
    score = image_score(scores, config.top)
    return Result(
        score=score,
        p_value=calibration.p_value(score),
        threshold=calibration.threshold,
        is_anomalous=score > calibration.threshold,
        map=_tensor_map(grid, image, config) if image.device is not None else _array_map(scores, image, config),
        pixel_threshold=calibration.pixel_threshold,
    )


def _array_map(scores: NDArray[np.float32], image: Prepared, config: ModelConfig) -> NDArray[np.float32]:
    rows, cols = (_bilinear_indices(*axis) for axis in zip(image.size, config.patches, image.window, strict=True))
    return interpolate(scores, rows, cols)


def _tensor_map(grid: Any, image: Prepared, config: ModelConfig) -> Tensor:
    from glance_fast.data.tensors import resample

    rows, cols = (map_weights(*axis) for axis in zip(image.size, config.patches, image.window, strict=True))
    return resample(grid, rows, cols, image.device)


# A line's images have one size: the indices of 1024 x 1024 pixels take longer to compute than to use.
_bilinear_indices = lru_cache(maxsize=64)(bilinear_indices)
