"""OpenVINO on the CPU: the exported graph, compiled for one image per run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from openvino import CompiledModel, Core, InferRequest, Model, Tensor

from glance_fast.backends.base import cpu_threads, describe_cpu
from glance_fast.data.pool import Pool
from glance_fast.errors import BackendError, ModelFolderError
from glance_fast.kernels.cpu.build import extension
from glance_fast.storage.export_record import Export, ExportRecord

# The type OpenVINO computes in; without the hint it takes bfloat16 on every CPU that has it. Weights of 8 bits and of
# half floats carry their precision in the graph, and the rest is float32.
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f32", "int8": "f32"}


def multiplies_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16. Where it does not, OpenVINO computes in float32 without a warning."""
    return "BF16" in Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoBackend:
    """One compiled graph, with one inference request per thread that scores at the same time.

    `files` are the exported graph's bytes by suffix, `.xml` and `.bin`. `library`: our kernels, which are nodes of it.
    `streams`: images that are scored concurrently; they share all cores of this process. Raises BackendError for a
    graph that OpenVINO cannot read.
    """

    name = "openvino"
    methods = ("dense",)
    takes_tensors = False
    export: ExportRecord | None = None

    def __init__(
        self,
        files: Mapping[str, bytes],
        precision: str = "fp32",
        library: Path | None = None,
        streams: int = 1,
    ) -> None:
        self.streams = streams
        self.device_description = describe_cpu(precision, streams, library is not None)
        # Kept: the core holds the code of our kernels, which the compiled graph calls.
        self._core = Core()
        if library is not None:
            self._core.add_extension(str(library))
        settings = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": cpu_threads(),
        }
        try:
            self._compiled: CompiledModel = self._core.compile_model(_read(self._core, files), "CPU", settings)
        except Exception as error:  # a damaged graph raises more than RuntimeError: UnicodeDecodeError for its names
            raise BackendError(f"OpenVINO cannot read this graph: {error}") from error
        self._requests = Pool[InferRequest](self._compiled.create_infer_request)

    @classmethod
    def load(cls, export: Export, streams: int = 1) -> OpenVinoBackend:
        """The backend of a model folder's export; raises ModelFolderError for a graph that OpenVINO cannot read."""
        record = export.record
        library = extension() if record.plugins else None  # its errors concern this machine, not the model folder
        try:
            backend = cls(export.files, record.precision, library, streams)
        except BackendError as error:
            raise ModelFolderError(f"{export.path}: {error}") from error
        backend.export = export.record
        return backend

    def grids(self, images: Sequence[NDArray[np.uint8]], method: str = "dense") -> list[NDArray[np.float32]]:
        """Scores of all locations of each image, float32 [gy, gx]; copies, which belong to the caller."""
        assert method in self.methods
        with self._requests.lend() as request:
            return [np.array(request.infer({"image": image[None]})["anomaly_grid"][0]) for image in images]


def _read(core: Core, files: Mapping[str, bytes]) -> Model:
    """The graph for one image per run: with an open batch size it takes a quarter longer."""
    model = core.read_model(files[".xml"], Tensor(np.frombuffer(files[".bin"], np.uint8)))
    sides = (side.get_length() for side in list(model.input("image").partial_shape)[1:])
    model.reshape({"image": [1, *sides]})
    return model
