"""TensorRT: a plan on a GPU, without PyTorch; each launch is one CUDA graph from pixels to scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glance_fast.backends.cuda_driver.capture import CapturedWork
from glance_fast.backends.cuda_driver.device import Cuda
from glance_fast.backends.cuda_driver.tensorrt_log import make_log
from glance_fast.errors import BackendError, ModelFolderError
from glance_fast.storage.export_record import Export

# How a plan may have been built, as its record tells and the command line asks.
FLAGS = ("any_version", "any_gpu")


class TensorRtBackend:
    """One plan; each thread that scores gets a lane of its own. `trt` is `tensorrt` or `tensorrt_lean`."""

    name = "tensorrt"
    methods = ("dense",)
    takes_tensors = False
    streams = 1

    def __init__(self, export: Export, trt: ModuleType, cuda: Cuda, place: str) -> None:
        check_built_for(export, trt.__version__, cuda)
        self._trt, self._cuda = trt, cuda
        plugins = ", with plugins" if export.record.plugins else ""
        self._place = f"{place} at {export.record.precision}{plugins}"
        self._log = make_log(trt)
        with cuda.current():
            # Kept: an engine must not outlive the runtime that it came from.
            self._runtime = trt.Runtime(self._log)
            self._engine = self._runtime.deserialize_cuda_engine(export.files[".plan"])
        if self._engine is None:
            raise ModelFolderError(f"{export.path}: TensorRT cannot read this plan: {self._log.told()}")
        self._most = int(export.record.built_for["batch"])
        self._free: dict[int, list[Lane]] = {1: [], self._most: []}

    @property
    def place(self) -> str:
        return self._place

    def grids(self, images: Sequence[NDArray[np.uint8]], method: str = "dense") -> list[NDArray[np.float32]]:
        """Scores of all locations of each image, float32 [gy, gx]."""
        assert method in self.methods
        with self._cuda.current():
            pieces = (images[low : low + self._most] for low in range(0, len(images), self._most))
            return [grid for piece in pieces for grid in self._run(piece)]

    def _run(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        free = self._free[1 if len(images) == 1 else self._most]
        try:
            lane = free.pop()
        except IndexError:
            lane = Lane(self._trt, self._cuda, self._engine, 1 if len(images) == 1 else self._most)
        try:
            return lane.run(images)
        finally:
            free.append(lane)

    def enqueue(self, addresses: Mapping[str, int], batch: int, stream: int, context: Any) -> None:
        """Put a run on memory of the caller's into a stream of the caller's; nothing is copied and nothing waits.

        `addresses` are the GPU addresses of `image` (uint8 [batch, H, W, 3]) and of every output that
        docs/how_to/export.md lists, `stream` is a CUDA stream's handle, `context` comes from `new_context()`, one for
        each thread.
        Raises BackendError.
        """
        names = tensor_names(self._engine)
        if set(addresses) != set(names):
            raise BackendError(
                f"the plan's tensors are {', '.join(names)}; addresses were given of {', '.join(addresses)}"
            )
        if not 1 <= batch <= self._most:
            raise BackendError(f"this plan takes 1 to {self._most} images a launch, and {batch} were given")
        bind(context, self._engine, addresses, batch)
        execute(context, stream)

    def new_context(self) -> Any:
        """An execution context for `enqueue`."""
        with self._cuda.current():
            return self._engine.create_execution_context()


class Lane:
    """What one thread at a time scores `batch` images with: a context, a stream, memory, and the captured launch."""

    def __init__(self, trt: ModuleType, cuda: Cuda, engine: Any, batch: int) -> None:
        self._stream, self._context = cuda.stream(), engine.create_execution_context()
        if not self._context.set_input_shape("image", (batch, *tuple(engine.get_tensor_shape("image"))[1:])):
            raise BackendError(f"the plan takes no {batch} images at once")
        shapes = {name: tuple(self._context.get_tensor_shape(name)) for name in tensor_names(engine)}
        dtypes = {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))) for name in shapes}
        sizes = {name: int(np.prod(shape)) * dtypes[name].itemsize for name, shape in shapes.items()}
        self._memory = {name: cuda.buffer(size) for name, size in sizes.items()}
        self._image, self._grid = (cuda.pinned(shapes[name], dtypes[name]) for name in ("image", "anomaly_grid"))
        bind(self._context, engine, {name: int(buffer) for name, buffer in self._memory.items()}, batch)

        def work() -> None:
            cuda.upload(self._memory["image"], self._image, self._stream)
            execute(self._context, self._stream.handle)
            cuda.download(self._grid, self._memory["anomaly_grid"], self._stream)

        self._image[:] = 0
        work()  # TensorRT settles what depends on shapes at a first run, which cannot be captured
        self._stream.synchronize()
        self._launch = CapturedWork(self._stream, work)

    def run(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """Scores of up to `batch` images; what is beyond them in memory is scored too and left out."""
        for i, image in enumerate(images):
            self._image[i] = image
        self._launch.launch()
        self._stream.synchronize()
        return list(self._grid[: len(images)].copy())


def tensor_names(engine: Any) -> list[str]:
    """Inputs and outputs of a plan."""
    return [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]


def bind(context: Any, engine: Any, addresses: Mapping[str, int], batch: int) -> None:
    """Tell a context the shape of its images and where all its tensors are."""
    context.set_input_shape("image", (batch, *tuple(engine.get_tensor_shape("image"))[1:]))
    for name, address in addresses.items():
        if not context.set_tensor_address(name, address):
            raise BackendError(f"TensorRT refuses the address {address:#x} of {name!r}")


def execute(context: Any, stream: int) -> None:
    """Put one run into a stream."""
    if not context.execute_async_v3(stream):
        raise BackendError("TensorRT could not start a run; its own messages stand in the log")


def check_built_for(export: Export, version: str, cuda: Cuda) -> None:
    """A plan runs on what it was built for; raises ModelFolderError that names both and the command that builds it."""
    built, again = export.record.built_for, f"build it here with: {export.again}"
    wanted = {"tensorrt", "gpu", "capability", "batch", "plugins", *FLAGS}
    if set(built) != wanted or not built["batch"].isdecimal() or int(built["batch"]) < 1:
        raise ModelFolderError(f"{export.path} does not say what its plan was built for; {again}")
    again += "".join(f" --{name.replace('_', '-')}" for name in FLAGS if built[name] == "True")
    any_version = built["any_version"] == "True"
    parts = slice(1) if any_version else slice(None)
    if built["tensorrt"].split(".")[parts] != version.split(".")[parts]:
        raise ModelFolderError(
            f"{export.path} was built with TensorRT {built['tensorrt']}, and this is {version}; {again}"
        )
    if built["capability"] != cuda.capability and not (built["any_gpu"] == "True" and float(cuda.capability) >= 8):
        raise ModelFolderError(
            f"{export.path} was built for {built['gpu']} (compute capability {built['capability']}), and this is "
            f"{cuda.gpu} ({cuda.capability}); {again}"
        )
