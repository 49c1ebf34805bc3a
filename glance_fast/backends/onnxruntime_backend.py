"""ONNX Runtime on the CPU: the exported graph as it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from glance_fast.backends.base import cpu_threads, place
from glance_fast.errors import ModelFolderError
from glance_fast.storage.export_record import Export


class OnnxRuntimeBackend:
    """One session, which any number of threads may run."""

    name = "onnxruntime"
    methods = ("dense",)
    takes_tensors = False

    def __init__(self, export: Export, streams: int = 1) -> None:
        self._precision, self.streams = export.record.precision, streams
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cpu_threads() // streams
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                export.files[".onnx"], options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's own errors share no narrower class
            raise ModelFolderError(f"{export.path}: ONNX Runtime cannot read this graph: {error}") from error

    @property
    def place(self) -> str:
        return place(self._precision, self.streams)

    def grids(self, images: Sequence[NDArray[np.uint8]], method: str = "dense") -> list[NDArray[np.float32]]:
        """Scores of all locations of each image, float32 [gy, gx]."""
        assert method in self.methods
        return [self._session.run(["anomaly_grid"], {"image": image[None]})[0][0] for image in images]
