"""TensorRT engines on a GPU, without PyTorch; each launch is one CUDA graph from pixels to scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glance_fast.backends.batching import Launches
from glance_fast.backends.cuda_driver.capture import CapturedWork
from glance_fast.backends.cuda_driver.device import Cuda
from glance_fast.backends.cuda_driver.tensorrt_log import make_log
from glance_fast.errors import BackendError, ModelFolderError
from glance_fast.storage.export_record import Export

# How a TensorRT engine may have been built: keys of its record, and options of the command line.
BUILD_FLAGS = ("any_version", "any_gpu")


class TensorRtBackend:
    """One TensorRT engine; concurrent threads have a slot each. `trt` is the module `tensorrt` or `tensorrt_lean`."""

    name = "tensorrt"
    methods = ("dense",)
    takes_tensors = False
    streams = 1

    def __init__(self, export: Export, trt: ModuleType, cuda: Cuda, device: str) -> None:
        check_built_for(export, trt.__version__, cuda)
        self.export = export.record
        plugins = ", with plugins" if export.record.plugins else ""
        self.device_description = f"{device} at {export.record.precision}{plugins}"
        self._cuda, self._log = cuda, make_log(trt)
        with cuda.current():
            # ".plan" is TensorRT's suffix for the file of a serialized engine.
            # Kept: a TensorRT engine must not outlive the runtime that deserialized it.
            self._runtime = trt.Runtime(self._log)
            self._engine = self._runtime.deserialize_cuda_engine(export.files[".plan"])
        if self._engine is None:
            raise ModelFolderError(f"{export.path}: TensorRT cannot read this engine: {self._log.take_errors()}")
        self._max_batch = int(export.record.built_for["batch"])
        self._launches = Launches((1, self._max_batch), lambda batch: TensorRtSlot(trt, cuda, self._engine, batch))

    def grids(self, images: Sequence[NDArray[np.uint8]], method: str = "dense") -> list[NDArray[np.float32]]:
        """Scores of all locations of each image, float32 [gy, gx] on the host; copies, which belong to the caller."""
        assert method in self.methods
        with self._cuda.current():
            return self._launches.run(images)

    def enqueue(self, addresses: Mapping[str, int], batch: int, stream: int, context: Any) -> None:
        """Put one run into a stream of the caller's, on the caller's memory. Nothing is copied and nothing waits.

        `addresses`: GPU addresses of `image` (uint8 [batch, H, W, 3]) and of every output in docs/how_to/export.md.
        The caller owns all of these buffers, input and output: they must stay allocated and untouched until the stream
        has passed the run, and the outputs hold its results until the caller reuses them. `stream`: a CUDA stream's
        handle. `context`: of `new_context()`, one per thread. Raises BackendError.
        """
        names = tensor_names(self._engine)
        if set(addresses) != set(names):
            raise BackendError(
                f"the TensorRT engine's tensors are {', '.join(names)}; got addresses of {', '.join(addresses)}"
            )
        if not 1 <= batch <= self._max_batch:
            raise BackendError(f"this TensorRT engine takes 1 to {self._max_batch} images per launch, got {batch}")
        bind(context, self._engine, addresses, batch)
        execute(context, stream)

    def new_context(self) -> Any:
        """An execution context for `enqueue`."""
        with self._cuda.current():
            return self._engine.create_execution_context()


class TensorRtSlot:
    """An execution context, a stream, memory for `batch` images and the captured launch, for one thread at a time."""

    def __init__(self, trt: ModuleType, cuda: Cuda, engine: Any, batch: int) -> None:
        self._stream, self._context = cuda.stream(), engine.create_execution_context()
        if not self._context.set_input_shape("image", (batch, *tuple(engine.get_tensor_shape("image"))[1:])):
            raise BackendError(f"the TensorRT engine takes no {batch} images per launch")
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
        work()  # TensorRT prepares for new shapes at a first run, which cannot be captured
        self._stream.synchronize()
        self._launch = CapturedWork(self._stream, work)

    def run(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """Grids of up to `batch` images, copies. The slot's remaining images are scored too, and left out."""
        for i, image in enumerate(images):
            self._image[i] = image
        self._launch.launch()
        self._stream.synchronize()
        return list(self._grid[: len(images)].copy())


def tensor_names(engine: Any) -> list[str]:
    """Names of a TensorRT engine's inputs and outputs."""
    return [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]


def bind(context: Any, engine: Any, addresses: Mapping[str, int], batch: int) -> None:
    """Set the batch size and the GPU addresses of all tensors of a context; raises BackendError."""
    context.set_input_shape("image", (batch, *tuple(engine.get_tensor_shape("image"))[1:]))
    for name, address in addresses.items():
        if not context.set_tensor_address(name, address):
            raise BackendError(f"TensorRT refuses the address {address:#x} of {name!r}")


def execute(context: Any, stream: int) -> None:
    """Put one run into a stream; raises BackendError."""
    if not context.execute_async_v3(stream):
        raise BackendError("TensorRT could not start a run; its own messages are in the log")


def check_built_for(export: Export, version: str, cuda: Cuda) -> None:
    """Raise ModelFolderError, with the command that builds the engine here, unless this TensorRT and GPU can run it."""
    built, rebuild = export.record.built_for, f"build it here with: {export.rebuild_command}"
    keys = {"tensorrt", "gpu", "capability", "batch", "plugins", *BUILD_FLAGS}
    if set(built) != keys or not built["batch"].isdecimal() or int(built["batch"]) < 1:
        raise ModelFolderError(f"{export.path} does not say what its TensorRT engine was built for; {rebuild}")
    rebuild += "".join(f" --{flag.replace('_', '-')}" for flag in BUILD_FLAGS if built[flag] == "True")
    compared = slice(1) if built["any_version"] == "True" else slice(None)
    if built["tensorrt"].split(".")[compared] != version.split(".")[compared]:
        raise ModelFolderError(
            f"{export.path} was built with TensorRT {built['tensorrt']}, and this is {version}; {rebuild}"
        )
    if built["capability"] != cuda.capability and not (built["any_gpu"] == "True" and float(cuda.capability) >= 8):
        raise ModelFolderError(
            f"{export.path} was built for {built['gpu']} (compute capability {built['capability']}), and this is "
            f"{cuda.gpu} ({cuda.capability}); {rebuild}"
        )
