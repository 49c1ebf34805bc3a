"""OpenVINO on the CPU: the exported graph, compiled for one image at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from openvino import CompiledModel, Core, InferRequest, Tensor

from glance_fast.backends.base import cpu_threads, place
from glance_fast.errors import ModelFolderError
from glance_fast.kernels.cpu.build import extension
from glance_fast.storage.export_record import Export

# What OpenVINO computes in; without the hint it takes bfloat16 wherever the CPU has it. Weights of 8 bits and of
# half floats carry their precision in the graph, and what is left is float32.
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f32", "int8": "f32"}


def multiplies_bfloat16() -> bool:
    """Whether this CPU does; where it does not, OpenVINO computes in float32 and does not say so."""
    return "BF16" in Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoBackend:
    """One compiled graph; each thread that scores gets an inference request of its own."""

    name = "openvino"
    methods = ("dense",)
    takes_tensors = False

    def __init__(self, export: Export, streams: int = 1) -> None:
        self._precision, self.streams = export.record.precision, streams
        # The core holds the code of our kernels as long as a graph may run them.
        self._plugins, self._core = export.record.plugins, Core()
        if self._plugins:
            self._core.add_extension(str(extension()))
        try:
            model = self._core.read_model(export.files[".xml"], Tensor(np.frombuffer(export.files[".bin"], np.uint8)))
            # For one image: a graph with an open batch takes a quarter longer.
            model.reshape({"image": [1, *(side.get_length() for side in list(model.input("image").partial_shape)[1:])]})
            settings = {
                "INFERENCE_PRECISION_HINT": HINTS[self._precision],
                "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
                "NUM_STREAMS": streams,
                "INFERENCE_NUM_THREADS": cpu_threads(),
            }
            self._compiled: CompiledModel = self._core.compile_model(model, "CPU", settings)
            if self._plugins:
                self._first_run()
        except RuntimeError as error:
            raise ModelFolderError(f"{export.path}: OpenVINO cannot read this graph: {error}") from error
        self._free: list[InferRequest] = []

    @property
    def place(self) -> str:
        return place(self._precision, self.streams, self._plugins)

    def _first_run(self) -> None:
        """Make our kernels read and check their program: what is wrong with it is told when a model is loaded."""
        given = self._compiled.input("image")
        self._compiled.create_infer_request().infer({"image": np.zeros(given.shape, np.uint8)})

    def grids(self, images: Sequence[NDArray[np.uint8]], method: str = "dense") -> list[NDArray[np.float32]]:
        """Scores of all locations of each image, float32 [gy, gx]."""
        assert method in self.methods
        try:
            request = self._free.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            return [np.array(request.infer({"image": image[None]})["anomaly_grid"][0]) for image in images]
        finally:
            self._free.append(request)
