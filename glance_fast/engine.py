"""The engine: scores images with a trained model, from any thread, with maps in each image's own size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image as PilImage

from glance_fast.backends.base import METHODS, Backend
from glance_fast.backends.process import require_own_runtimes
from glance_fast.backends.registry import make_backend
from glance_fast.backends.self_check import require_self_check
from glance_fast.config import ModelConfig
from glance_fast.data.batches import batched
from glance_fast.data.images import ImageInput
from glance_fast.data.latest import Latest
from glance_fast.data.meaning import InputSettings, check_channels
from glance_fast.data.owned import owned, settle
from glance_fast.data.prefetch import Prefetch
from glance_fast.data.prepare import Prepared, image_list, prepare
from glance_fast.data.source import Source
from glance_fast.data.stream import Stream, check_stream
from glance_fast.errors import BackendError, ConfigError, GlanceError, ImageError, ModelFolderError
from glance_fast.postprocessing.calibration import Calibration
from glance_fast.postprocessing.result import FailedResult, Result, attempt, finish
from glance_fast.storage.model_folder import CONFIG, ModelFiles, model_path, read_model

if TYPE_CHECKING:
    from torch import Tensor

Value = TypeVar("Value")


class Engine:
    """Scores images with one trained model; create it with `Engine.load(folder)`.

    Thread-safe: it has no mutable state of its own, and backends lend their memory to one thread at a time. In a
    process that was forked after `load` it raises BackendError. Pickled or copied, it carries its folder and the
    settings of `load`, and is loaded anew.
    """

    def __init__(self, files: ModelFiles, backend: Backend, channels: str = "rgb") -> None:
        self.files = files
        self.config = files.model
        self.calibration: Calibration = files.calibration
        self.backend = backend
        self.input_settings = InputSettings.of(files.model, channels)
        self._load_arguments: dict[str, Any] | None = None

    @classmethod
    def load(
        cls,
        folder: str | Path,
        backend: str = "auto",
        device: str = "cpu",
        precision: str = "fp32",
        streams: int | None = 1,
        channels: str = "rgb",
    ) -> Engine:
        """Load the model in `folder`.

        `backend`: auto, torch, cuda, openvino, onnxruntime or tensorrt; auto runs the fastest export that is present,
        else torch. `device`: cpu, cuda or `cuda:<index>`. `precision`: of the export, fp32, bf16, fp16 or int8.
        `streams`: images of a list or a stream that openvino and onnxruntime score concurrently, each on a share of the
        cores; that scores more images per second, and each image takes longer. None: the number that scores a folder
        fastest. `channels`: the order of channels in arrays and tensors that are scored, rgb or bgr (as OpenCV reads
        them); files and PIL images are RGB whatever it is. Raises ModelFolderError for a damaged folder, BackendError,
        ConfigError for other `channels`, and MissingDependencyError.

        The engine scores the model's self-check once, and is refused where the scores are not those of the trained
        model within the tolerance of the precision.
        """
        check_channels(channels)
        files = read_model(model_path(folder))
        require_own_runtimes()
        try:
            engine = cls(files, make_backend(files, backend, device, precision, streams), channels)
        except ConfigError as error:
            raise ModelFolderError(f"{files.path / CONFIG}, model: {error}") from error
        require_self_check(files, lambda images: engine._grids(images, "dense"), engine.backend.name, precision)
        engine._load_arguments = {
            "folder": files.path.absolute(),
            "backend": engine.backend.name,
            "device": device,
            "precision": precision,
            "streams": streams,
            "channels": channels,
        }
        return engine

    def __reduce__(self) -> tuple[Any, ...]:
        if self._load_arguments is None:
            raise BackendError(
                "an engine that was made without Engine.load cannot be pickled or copied: nothing says how to make it "
                "again; use Engine.load"
            )
        expected = (self.files.digests.weights, self.config)
        return _load_again, (type(self), self._load_arguments, expected), {"calibration": self.calibration}

    def __repr__(self) -> str:
        height, width = self.config.image_size
        return f"Engine({str(self.files.path)!r}, {self._described_backend}, {height}x{width})"

    @property
    def _described_backend(self) -> str:
        return f"{self.backend.name} on {self.backend.device_description}"

    def metadata(self) -> dict[str, str]:
        """The model's metadata for reports: image size, grid, backend, and how it was trained."""
        height, width = self.config.image_size
        return {
            "model": self.files.path.name,
            "input size": f"{height}x{width} pixels",
            "grid": f"patch {self.config.patch}, stride {self.config.stride}",
            "backend": self._described_backend,
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
    def score(self, img: list[Any] | tuple[Any, ...], method: str = ...) -> list[Result[Any] | FailedResult]: ...

    def score(self, img: Any, method: str = "dense") -> Any:
        """Score one image, or a list of them (an array or tensor of four axes is a list along its first).

        An image is an array [H, W, 3] or [H, W] (uint8, uint16, bool, or floating in 0..1), a PIL image, a
        path, or a torch tensor [H, W], [3, H, W] or [H, W, 3], whose map stays on its device. Colours are RGB, or in
        the order `channels` of `load`; uint16 has the model's range (setting `bits`). `method` "loop" runs the paper's
        per-patch loop instead of the dense pass.

        An image that cannot be read or judged is an ImageError; in a list it is a FailedResult among the results of the
        others. Raises BackendError; where the backend breaks down within a list, the error's `results` are those of
        the list's earlier images, in order, and the others have none.
        """
        self.check_method(method)
        require_own_runtimes()
        images = image_list(img)
        if images is not None:
            return self._score_list(images, method)
        result = self._score([img], method)[0]
        if result.error is not None:
            raise result.error
        return result

    def stream(
        self, images: Iterable[Any], method: str = "dense", ahead: int = 0, latest: bool = False
    ) -> Stream[Result[Any] | FailedResult]:
        """Score a stream of images, in order; an image that cannot be read or judged gives a FailedResult.

        `images` may be endless, and of every kind that `score` takes. A result is given as soon as its image is scored,
        before the next image is asked for. With `ahead` a thread asks for as many images while others are scored, which
        scores more images per second; with `latest` it asks for all of them, and only the newest is scored. Both copy
        an image before they ask for the next. Errors of `images` itself, and all that `score` raises for reasons other
        than the image, come after the results of all earlier images and end the stream. Raises ConfigError.
        """
        self.check_method(method)
        require_own_runtimes()
        check_stream(images, ahead, latest)

        def judge(image: Prepared | FailedResult) -> Result[Any] | FailedResult:
            return self._judge([image], method)[0]

        def score(image: Any) -> Result[Any] | FailedResult:
            return judge(self._prepare(image))

        if ahead:
            steps = Prefetch(
                Source(images, self._take),
                lambda image: _settled(self._prepare(image)),
                lambda image: _settled(judge(image)),
                lambda result: result,
                self.backend.streams,
                ahead,
            )
            return Stream(steps, steps, require_own_runtimes)
        source: Source[Any] | Latest[Any] = Latest(Source(images, self._take)) if latest else Source(images)
        return Stream(map(score, source), source, require_own_runtimes)

    def check_method(self, method: str) -> None:
        """Raise BackendError unless `score` and `stream` can run the method with this backend."""
        if method not in METHODS:
            raise BackendError(f"unknown method {method!r}; legal are {', '.join(METHODS)}")
        if method not in self.backend.methods:
            raise BackendError(
                f"method {method!r} needs the backend torch, and this engine runs {self.backend.name}; "
                "use Engine.load(..., backend='torch')"
            )

    def _score_list(self, images: Any, method: str) -> list[Result[Any] | FailedResult]:
        results: list[Result[Any] | FailedResult] = []
        try:
            for batch in batched(images):
                results += self._score(batch, method)
        except BackendError as error:
            error.results = results
            raise
        return results

    def _score(self, images: Sequence[Any], method: str) -> list[Result[Any] | FailedResult]:
        return self._judge([self._prepare(image) for image in images], method)

    def _take(self, image: Any) -> Any:
        """What later changes of an image do not reach: a copy; a PIL image, which may turn its page, is prepared."""
        return self._prepare(image) if isinstance(image, PilImage) else attempt(_read, owned, image)

    def _prepare(self, image: Any) -> Prepared | FailedResult:
        if isinstance(image, Prepared | FailedResult):
            return image
        return attempt(_read, prepare, image, self.config, self.backend.takes_tensors, self.input_settings)

    def _judge(self, images: Sequence[Prepared | FailedResult], method: str) -> list[Result[Any] | FailedResult]:
        inputs = [image.input for image in images if isinstance(image, Prepared)]
        grids = iter(self._grids(inputs, method) if inputs else ())
        return [self._finish(next(grids), image) if isinstance(image, Prepared) else image for image in images]

    def _finish(self, grid: Any, image: Prepared) -> Result[Any] | FailedResult:
        return attempt(finish, grid, image, self.config, self.calibration, self._described_backend)

    def _grids(self, inputs: Sequence[Any], method: str) -> Sequence[Any]:
        """Score grids of prepared inputs; as many are scored concurrently as the backend has streams."""
        concurrency = min(self.backend.streams, len(inputs))
        try:
            if concurrency <= 1:
                return self._checked(self.backend.grids(inputs, method))
            with ThreadPoolExecutor(concurrency) as pool:
                return self._checked([*pool.map(lambda image: self.backend.grids([image], method)[0], inputs)])
        except (GlanceError, MemoryError):
            raise
        except Exception as error:  # each runtime has classes of its own
            raise BackendError(
                f"{self.backend.name} broke down while it scored: {error}; load the engine again"
            ) from error

    def _checked(self, grids: Sequence[Any]) -> Sequence[Any]:
        """The grids, if they are of the settings' locations: an export in an old folder may be of other settings."""
        expected = tuple(len(patches.starts) for patches in self.config.patches)
        for grid in grids:
            if tuple(grid.shape) != expected:
                raise BackendError(
                    f"{self.backend.name} scores {list(grid.shape)} locations, and the settings in {self.files.path} "
                    f"have {list(expected)}; export the model again"
                )
        return grids


def _settled(outcome: Any) -> Any:
    """What a thread hands to another: a prepared image or a result, whose tensors the GPU has computed."""
    if not isinstance(outcome, FailedResult):
        settle(outcome.input if isinstance(outcome, Prepared) else outcome.map)
    return outcome


def _read(step: Callable[..., Value], image: Any, *settings: Any) -> Value:
    """`step` of an image, where whatever the image's own class or library raises is an ImageError too."""
    try:
        return step(image, *settings)
    except (GlanceError, MemoryError):
        raise
    except Exception as error:
        raise ImageError(
            f"a {type(image).__name__} cannot be read as an image: {type(error).__name__}: {error}; give an array, a "
            "PIL image, a path or a torch tensor"
        ) from error


def _load_again(cls: type[Engine], arguments: dict[str, Any], expected: tuple[str, ModelConfig]) -> Engine:
    """The engine that was pickled or copied; raises ModelFolderError where its folder has another model by now."""
    carried = "an engine that was pickled or copied is loaded anew from its folder"
    try:
        engine = cls.load(**arguments)
    except ModelFolderError as error:
        raise ModelFolderError(f"{error}; {carried}, which must be at the same path") from error
    if (engine.files.digests.weights, engine.config) != expected:
        raise ModelFolderError(
            f"{arguments['folder']} holds another model by now; {carried}: load the new model with Engine.load, and "
            "send that engine"
        )
    return engine
