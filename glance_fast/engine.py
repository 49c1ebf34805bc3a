"""The engine: a trained model that scores images, from any thread, with maps in each image's own size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from glance_fast.backends import METHODS, Backend, make_backend
from glance_fast.calibration import Calibration
from glance_fast.errors import BackendError, ConfigError, ImageError, ModelFolderError
from glance_fast.geometry import between, frame, image_score, interpolate, map_weights
from glance_fast.images import ImageInput, as_rgb, is_tensor, resize
from glance_fast.overlap import overlapped
from glance_fast.store import CONFIG, ModelFiles, read_model

if TYPE_CHECKING:
    from torch import Tensor

Map = TypeVar("Map", NDArray[np.float32], "Tensor")

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

    def __init__(self, files: ModelFiles, backend: Backend) -> None:
        self.files = files
        self.config = files.model
        self.calibration: Calibration = files.calibration
        self.backend = backend

    @classmethod
    def load(
        cls,
        folder: str | Path,
        backend: str = "auto",
        device: str = "cpu",
        precision: str = "fp32",
        streams: int | None = 1,
    ) -> Engine:
        """Load the model in `folder`.

        `backend` is auto, torch, cuda, openvino, onnxruntime or tensorrt; auto takes an exported form if there is one.
        `precision` is that of the export: fp32, bf16, fp16 or int8. `streams`: how many images of a list or a stream
        openvino and onnxruntime score at once, each on its share of the cores: more images a second, and each takes
        longer; None is as many as suit a folder. Raises ModelFolderError for a damaged folder, BackendError, and
        MissingDependencyError.
        """
        files = read_model(Path(folder))
        try:
            return cls(files, make_backend(files, backend, device, precision, streams))
        except ConfigError as error:
            raise ModelFolderError(f"{files.path / CONFIG}, model: {error}") from error

    def __repr__(self) -> str:
        height, width = self.config.image_size
        place = f"{self.backend.name} on {self.backend.place}"
        return f"Engine({str(self.files.path)!r}, {place}, {height}x{width})"

    def facts(self) -> dict[str, str]:
        """What people ask of a model, for reports: its size, its grid, how it was trained, what runs it."""
        height, width = self.config.image_size
        return {
            "model": self.files.path.name,
            "networks see": f"{height}x{width} pixels",
            "grid": f"patch {self.config.patch}, stride {self.config.stride}",
            "backend": f"{self.backend.name} on {self.backend.place}",
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
        if method not in self.backend.methods:
            raise BackendError(
                f"method {method!r} needs the backend torch, and this engine runs {self.backend.name}; "
                "use Engine.load(..., backend='torch')"
            )
        if (isinstance(img, np.ndarray) or is_tensor(img)) and img.ndim == 4:
            img = list(img)
        if isinstance(img, (list, tuple)):
            batches = (img[low : low + BATCH] for low in range(0, len(img), BATCH))
            return [result for batch in batches for result in self._score(batch, method)]
        return self._score([img], method)[0]

    def stream(self, images: Iterable[Any], method: str = "dense") -> Iterator[Result[Any]]:
        """Score images as they come, in order; the next ones are read and decoded meanwhile.

        `images` may be endless, and of anything that `score` takes. A few are read ahead, so a source that waits for
        its results before it gives more is better scored one by one. Raises what `score` raises, at that image's turn.
        """
        at_once = self.backend.streams
        return overlapped(images, _rgb, lambda pixels: self.score(pixels, method), lambda result: result, at_once)

    def _score(self, images: Sequence[Any], method: str) -> list[Result[Any]]:
        pixels = [_rgb(image) for image in images]
        for image in pixels:
            self._check_size(image.shape[0], image.shape[1])
        inputs, at_once = [self._input(image) for image in pixels], min(self.backend.streams, len(pixels))
        if at_once > 1:
            with ThreadPoolExecutor(at_once) as pool:
                grids = [*pool.map(lambda image: self.backend.grids([image], method)[0], inputs)]
        else:
            grids = [*self.backend.grids(inputs, method)]
        return [self._result(grid, image) for grid, image in zip(grids, pixels, strict=True)]

    def _check_size(self, height: int, width: int) -> None:
        patch = self.config.patch
        if min(height, width) < patch:
            raise ImageError(
                f"an image of {height}x{width} pixels is smaller than one {patch}x{patch} patch; "
                "give a larger image or train a model with a smaller patch"
            )

    def _input(self, pixels: Any) -> Any:
        """An image at the model's size, uint8 [H, W, 3]; a tensor only where the backend takes one."""
        if not is_tensor(pixels):
            return resize(pixels, self.config.image_size, self.config.resize)
        from glance_fast.tensors import resize_tensor

        resized = resize_tensor(pixels, self.config.image_size, self.config.resize)
        return resized if self.backend.takes_tensors else resized.cpu().numpy()

    def _result(self, grid: Any, pixels: Any) -> Result[Any]:
        scores = grid.cpu().numpy() if is_tensor(grid) else grid
        score = image_score(scores, self.config.top)
        anomaly_map: Any
        c, size = self.config, (pixels.shape[0], pixels.shape[1])
        axes = zip(size, c.patches, frame(size, c.image_size, c.resize), strict=True)
        if is_tensor(pixels):
            from glance_fast.tensors import resample

            weights = [map_weights(*axis) for axis in axes]
            anomaly_map = resample(grid, weights[0], weights[1], pixels.device)
        else:
            lies = [_between(*axis) for axis in axes]
            anomaly_map = interpolate(scores, lies[0], lies[1])
        return Result(
            score=score,
            p_value=self.calibration.p_value(score),
            threshold=self.threshold,
            is_anomalous=score > self.threshold,
            map=anomaly_map,
            pixel_threshold=self.pixel_threshold,
        )


def _rgb(image: Any) -> Any:
    """Any accepted image as uint8 [H, W, 3], a tensor where it is one."""
    if not is_tensor(image):
        return as_rgb(image)
    from glance_fast.tensors import tensor_as_rgb

    return tensor_as_rgb(image)


_between = lru_cache(maxsize=64)(between)
