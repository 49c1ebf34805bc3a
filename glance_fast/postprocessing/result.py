"""The result of an image: score, verdict and anomaly map, or the error for which it cannot be judged."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from glance_fast.config import ModelConfig
from glance_fast.data.images import is_tensor
from glance_fast.data.prepare import Prepared
from glance_fast.errors import ImageError, ScoreError
from glance_fast.postprocessing.anomaly_map import bilinear_indices, image_score, interpolate, map_weights
from glance_fast.postprocessing.calibration import Calibration

if TYPE_CHECKING:
    from torch import Tensor

Map = TypeVar("Map", NDArray[np.float32], "Tensor")
Value = TypeVar("Value")
Arguments = ParamSpec("Arguments")


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

    @property
    def verdict(self) -> Literal["normal", "anomalous"]:
        """`is_anomalous` in a word; that of a `FailedResult` is "cannot judge"."""
        return "anomalous" if self.is_anomalous else "normal"

    @property
    def error(self) -> None:
        """The error of an image that cannot be judged: None, for this image was."""
        return None


@dataclass(frozen=True)
class FailedResult:
    """In place of a `Result`, of an image in a list or a stream that could not be read or scored, and why.

    It is neither normal nor anomalous: all of a result's other attributes raise `error`.
    """

    error: ImageError

    @property
    def verdict(self) -> Literal["cannot judge"]:
        """The third verdict, beside a result's "normal" and "anomalous"."""
        return "cannot judge"

    def _raise(self) -> NoReturn:
        raise self.error

    score = p_value = threshold = is_anomalous = map = mask = pixel_threshold = property(_raise)


def attempt(
    step: Callable[Arguments, Value], *arguments: Arguments.args, **options: Arguments.kwargs
) -> Value | FailedResult:
    """What `step` returns; a FailedResult where it raises an ImageError."""
    try:
        return step(*arguments, **options)
    except ImageError as error:
        return FailedResult(error)


def finish(grid: Any, image: Prepared, config: ModelConfig, calibration: Calibration, backend: str) -> Result[Any]:
    """The result of an image from its grid of scores, float32 [gy, gx], an array or a tensor.

    Raises ScoreError, naming `backend`, unless the scores are finite; the map, which interpolates between them, then is
    finite too.
    """
    scores = grid.cpu().numpy() if is_tensor(grid) else grid
    score = image_score(scores, config.top_k)
    if not (math.isfinite(score) and np.isfinite(scores).all()):
        raise ScoreError(
            f"{backend} scores this image NaN or infinite: it cannot be judged; if others fail too, load the model at "
            "precision 'fp32', restore its folder from a copy or train it again"
        )
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
