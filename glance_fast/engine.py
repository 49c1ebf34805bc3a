"""The engine: a trained model that scores images, from any thread, with maps in each image's own size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from glance_fast.backends.base import METHODS, Backend
from glance_fast.backends.registry import make_backend
from glance_fast.data.images import ImageInput, is_tensor
from glance_fast.data.prefetch import overlapped
from glance_fast.data.prepare import prepare, rgb
from glance_fast.errors import BackendError, ConfigError, ModelFolderError
from glance_fast.postprocessing.calibration import Calibration
from glance_fast.postprocessing.result import Result, finish
from glance_fast.storage.model_folder import CONFIG, ModelFiles, read_model

if TYPE_CHECKING:
    from torch import Tensor

BATCH = 8


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
        return overlapped(images, rgb, lambda pixels: self.score(pixels, method), lambda result: result, at_once)

    def _score(self, images: Sequence[Any], method: str) -> list[Result[Any]]:
        prepared = [prepare(image, self.config, self.backend.takes_tensors) for image in images]
        grids = self._grids([image.input for image in prepared], method)
        pairs = zip(grids, prepared, strict=True)
        return [finish(grid, image, self.config, self.calibration) for grid, image in pairs]

    def _grids(self, inputs: Sequence[Any], method: str) -> Sequence[Any]:
        """The scores of all patches of each image, as many images at once as the backend has streams."""
        at_once = min(self.backend.streams, len(inputs))
        if at_once <= 1:
            return self.backend.grids(inputs, method)
        with ThreadPoolExecutor(at_once) as pool:
            return [*pool.map(lambda image: self.backend.grids([image], method)[0], inputs)]
