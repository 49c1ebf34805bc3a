"""ONNX Runtime on the CPU: the exported graph, unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from glance_fast.backends.base import cpu_threads, describe_cpu
from glance_fast.errors import BackendError, ModelFolderError
from glance_fast.storage.export_record import Export, ExportRecord


class OnnxRuntimeBackend:
    """One session, which any number of threads may run.

    `files` are the exported graph's bytes by suffix, `.onnx`. `streams`: images that are scored concurrently.
    The streams share all cores of this process. Raises BackendError for a graph that ONNX Runtime cannot read.
    """

    name = "onnxruntime"
    methods = ("dense",)
    takes_tensors = False
    export: ExportRecord | None = None

    def __init__(
        self,
        files: Mapping[str, bytes],
        precision: str = "fp32",
        streams: int = 1,
    ) -> None:
        self.streams = streams
        self.device_description = describe_cpu(precision, streams)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cpu_threads() // streams
        options.log_severity_level = 3
        try:
            # Its fallback would print to stdout and try the same provider again.
            self._session = onnxruntime.InferenceSession(
                files[".onnx"], options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except Exception as error:  # ONNX Runtime's own errors share no narrower class
            raise BackendError(f"ONNX Runtime cannot read this graph: {error}") from error

    @classmethod
    def load(cls, export: Export, streams: int = 1) -> OnnxRuntimeBackend:
        """The backend of a model folder's export; raises ModelFolderError for a graph that the runtime cannot read."""
        try:
            backend = cls(export.files, export.record.precision, streams)
        except BackendError as error:
            raise ModelFolderError(f"{export.path}: {error}") from error
        backend.export = export.record
        return backend

    def grids(self, images: Sequence[NDArray[np.uint8]], method: str = "dense") -> list[NDArray[np.float32]]:
        """Scores of all locations of each image, float32 [gy, gx]; they belong to the caller."""
        assert method in self.methods
        return [self._session.run(["anomaly_grid"], {"image": image[None]})[0][0] for image in images]
