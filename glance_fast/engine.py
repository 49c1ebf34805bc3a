"""The engine: a trained model that scores images, from any thread, with maps in each image's own size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glance_fast.backends import METHODS, make_backend
from glance_fast.backends.torch_backend import TorchBackend
from glance_fast.calibration import Calibration
from glance_fast.errors import BackendError, ConfigError, ImageError, ModelFolderError
from glance_fast.geometry import image_score, map_weights
from glance_fast.images import ImageInput, as_rgb, resize
from glance_fast.store import CONFIG, ModelFiles, read_model
from glance_fast.tensors import resize_tensor, tensor_as_rgb

Map = TypeVar("Map", NDArray[np.float32], Tensor)

BATCH = 8


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


class Engine:
    """Scores images with one trained model; `Engine.load(folder)` makes it. Thread-safe: no state."""

    def __init__(self, files: ModelFiles, backend: TorchBackend) -> None:
        self.files = files
        self.config = files.model
        self.calibration: Calibration = files.calibration
        self.backend = backend

    @classmethod
    def load(cls, folder: str | Path, backend: str = "auto", device: str = "cpu") -> Engine:
        """Load the model in `folder`; raises ModelFolderError for a damaged one, or BackendError."""
        files = read_model(Path(folder))
        try:
            return cls(files, make_backend(files, backend, device))
        except ConfigError as error:
            raise ModelFolderError(f"{files.path / CONFIG}, model: {error}") from error

    def __repr__(self) -> str:
        height, width = self.config.image_size
        place = f"{self.backend.name} on {self.backend.device}"
        return f"Engine({str(self.files.path)!r}, {place}, {height}x{width})"

    def facts(self) -> dict[str, str]:
        """What people ask of a model, for reports: its size, its grid, how it was trained, what runs it."""
        height, width = self.config.image_size
        return {
            "model": self.files.path.name,
            "networks see": f"{height}x{width} pixels",
            "grid": f"patch {self.config.patch}, stride {self.config.stride}",
            "backend": f"{self.backend.name} on {self.backend.device}",
            **self.files.facts,
        }

    @property
    def threshold(self) -> float:
        """Image scores above it are anomalous."""
        return self.calibration.threshold

    @property
    def pixel_threshold(self) -> float:
        """Pixels of a map above it are marked."""
        return self.calibration.pixel_threshold

    @overload
    def score(self, img: Tensor, method: str = ...) -> Result[Tensor]: ...
    @overload
    def score(self, img: ImageInput, method: str = ...) -> Result[NDArray[np.float32]]: ...
    @overload
    def score(self, img: list[Any] | tuple[Any, ...], method: str = ...) -> list[Result[Any]]: ...

    def score(self, img: Any, method: str = "dense") -> Any:
        """Score one image, or a list of them (an array or tensor of four axes is a list along its first).

        An image is an array [H, W, 3] or [H, W] (uint8, uint16, bool, or floating in 0..1), a PIL image, a
        path, or a torch tensor [H, W], [3, H, W] or [H, W, 3], whose map stays on its device. `method` "loop"
        runs the paper's per-patch loop instead of the dense pass. Raises ImageError, BackendError.
        """
        if method not in METHODS:
            raise BackendError(f"unknown method {method!r}; legal are {', '.join(METHODS)}")
        if isinstance(img, (np.ndarray, Tensor)) and img.ndim == 4:
            img = list(img)
        if isinstance(img, (list, tuple)):
            batches = (img[low : low + BATCH] for low in range(0, len(img), BATCH))
            return [result for batch in batches for result in self._score(batch, method)]
        return self._score([img], method)[0]

    def _score(self, images: Sequence[Any], method: str) -> list[Result[Any]]:
        pixels = [tensor_as_rgb(image) if isinstance(image, Tensor) else as_rgb(image) for image in images]
        for image in pixels:
            self._check_size(image.shape[0], image.shape[1])
        grids = self.backend.tensor_grids(torch.stack([self._input(image) for image in pixels]), method)
        return [self._result(grid, image) for grid, image in zip(grids, pixels, strict=True)]

    def _check_size(self, height: int, width: int) -> None:
        patch = self.config.patch
        if min(height, width) < patch:
            raise ImageError(
                f"an image of {height}x{width} pixels is smaller than one {patch}x{patch} patch; "
                "give a larger image or train a model with a smaller patch"
            )

    def _input(self, pixels: NDArray[np.uint8] | Tensor) -> Tensor:
        """An image at the model's size, uint8 [H, W, 3] on the backend's device."""
        if isinstance(pixels, Tensor):
            return resize_tensor(pixels, self.config.image_size).to(self.backend.device)
        return torch.from_numpy(np.array(resize(pixels, self.config.image_size))).to(self.backend.device)

    def _result(self, grid: Tensor, pixels: NDArray[np.uint8] | Tensor) -> Result[Any]:
        score = image_score(grid.cpu().numpy(), self.config.top)
        rows, cols = (
            _weights(own, side, self.config.patch, self.config.stride, self.config.overhang)
            for own, side in zip(pixels.shape[:2], self.config.image_size, strict=True)
        )
        anomaly_map: Any
        if isinstance(pixels, Tensor):
            place = pixels.device
            left, right = (torch.from_numpy(weights).to(place) for weights in (rows, cols))
            anomaly_map = left @ grid.to(place) @ right.mT
        else:
            anomaly_map = rows @ grid.cpu().numpy() @ cols.T
        return Result(
            score=score,
            p_value=self.calibration.p_value(score),
            threshold=self.threshold,
            is_anomalous=score > self.threshold,
            map=anomaly_map,
            pixel_threshold=self.pixel_threshold,
        )


@lru_cache(maxsize=64)
def _weights(pixels: int, side: int, patch: int, stride: int, overhang: int) -> NDArray[np.float32]:
    return map_weights(pixels, side, patch, stride, overhang)
