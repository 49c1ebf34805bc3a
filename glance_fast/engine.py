"""The engine: scores images with a trained model, from any thread, with maps in each image's own size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from glance_fast.backends.base import METHODS, Backend
from glance_fast.backends.registry import make_backend
from glance_fast.data.batches import batched
from glance_fast.data.images import ImageInput
from glance_fast.data.prefetch import prefetch_map
from glance_fast.data.prepare import image_list, prepare, rgb
from glance_fast.errors import BackendError, ConfigError, ModelFolderError
from glance_fast.postprocessing.calibration import Calibration
from glance_fast.postprocessing.result import Result, finish
from glance_fast.storage.model_folder import CONFIG, ModelFiles, read_model

if TYPE_CHECKING:
    from torch import Tensor


class Engine:
    """Scores images with one trained model; create it with `Engine.load(folder)`.

    Thread-safe: it has no mutable state of its own, and backends lend their memory to one thread at a time.
    """

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

        `backend`: auto, torch, cuda, openvino, onnxruntime or tensorrt; auto runs the fastest export that is present,
        else torch. `device`: cpu, cuda or cuda:<index>. `precision`: of the export, fp32, bf16, fp16 or int8.
        `streams`: images of a list or a stream that openvino and onnxruntime score concurrently, each on a share of the
        cores; that scores more images per second, and each image takes longer. None: the number that scores a folder
        fastest. Raises ModelFolderError for a damaged folder, BackendError, and MissingDependencyError.
        """
        files = read_model(Path(folder))
        try:
            return cls(files, make_backend(files, backend, device, precision, streams))
        except ConfigError as error:
            raise ModelFolderError(f"{files.path / CONFIG}, model: {error}") from error

    def __repr__(self) -> str:
        height, width = self.config.image_size
        backend = f"{self.backend.name} on {self.backend.device_description}"
        return f"Engine({str(self.files.path)!r}, {backend}, {height}x{width})"

    def metadata(self) -> dict[str, str]:
        """The model's metadata for reports: image size, grid, backend, and how it was trained."""
        height, width = self.config.image_size
        return {
            "model": self.files.path.name,
            "input size": f"{height}x{width} pixels",
            "grid": f"patch {self.config.patch}, stride {self.config.stride}",
            "backend": f"{self.backend.name} on {self.backend.device_description}",
            **self.files.metadata,
        }

    # The name in version 0.1.0.
    facts = metadata

    @property
    def threshold(self) -> float:
        """Images that score above it are anomalous."""
        return self.calibration.threshold

    @property
    def pixel_threshold(self) -> float:
        """Pixels of a map above it belong to `Result.mask`."""
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
        images = image_list(img)
        if images is None:
            return self._score([img], method)[0]
        return [result for batch in batched(images) for result in self._score(batch, method)]

    def stream(self, images: Iterable[Any], method: str = "dense") -> Iterator[Result[Any]]:
        """Score a stream of images in order, while the next images are read and decoded.

        `images` may be endless, and of every kind that `score` takes. About 8 images are read ahead: a source that
        waits for a result before it yields the next image needs `score`. Raises what `score` raises, at that image's
        turn.
        """
        concurrency = self.backend.streams
        return prefetch_map(images, rgb, lambda pixels: self.score(pixels, method), lambda result: result, concurrency)

    def _score(self, images: Sequence[Any], method: str) -> list[Result[Any]]:
        prepared = [prepare(image, self.config, self.backend.takes_tensors) for image in images]
        grids = self._grids([image.input for image in prepared], method)
        pairs = zip(grids, prepared, strict=True)
        return [finish(grid, image, self.config, self.calibration) for grid, image in pairs]

    def _grids(self, inputs: Sequence[Any], method: str) -> Sequence[Any]:
        """Score grids of prepared inputs; as many are scored concurrently as the backend has streams."""
        concurrency = min(self.backend.streams, len(inputs))
        if concurrency <= 1:
            return self.backend.grids(inputs, method)
        with ThreadPoolExecutor(concurrency) as pool:
            return [*pool.map(lambda image: self.backend.grids([image], method)[0], inputs)]
