"""The Triton kernels and Local-Net's convolutions on a GPU, captured as one CUDA graph per batch size."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glance_fast.backends.batching import Launches
from glance_fast.backends.torch_backend import full_precision
from glance_fast.dense.triton_pipeline import TritonPipeline
from glance_fast.models.model import GlanceModel

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Images of the largest launch; fewer images are rounded up to a power of two.
MAX_BATCH = 32
# CUDA allows one capture per process at a time, whichever model or device it is of: hence a lock of the module.
_capturing = threading.Lock()


class CudaBackend:
    """Weights are packed once; concurrent threads have a slot each. Scores stay on the device."""

    name = "cuda"
    methods = ("dense",)
    takes_tensors = True
    streams = 1
    export = None

    def __init__(self, model: GlanceModel, device: torch.device, precision: str) -> None:
        full_precision()
        self.device_description = f"{device} at {precision}"
        self._pipeline = TritonPipeline(model, device, DTYPES[precision])
        size = model.config.image_size
        batch_sizes = (1 << bits for bits in range(MAX_BATCH.bit_length()))
        self._launches = Launches(batch_sizes, lambda batch: CudaSlot(self._pipeline, device, batch, size))

    def grids(self, images: Sequence[NDArray[np.uint8] | Tensor], method: str = "dense") -> list[Tensor]:
        """Scores of all locations of each image, float32 [gy, gx] on the device.

        The grids are copies that belong to the caller, ordered after the work in the caller's current stream.
        """
        assert method in self.methods
        return self._launches.run(images)


class CudaSlot:
    """A stream, memory for `batch` images and the captured launch, for one thread at a time."""

    def __init__(self, pipeline: TritonPipeline, device: torch.device, batch: int, size: tuple[int, int]) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # Two, so that the host fills one while the other is still being copied.
        self._pinned = [torch.empty(batch, *size, 3, dtype=torch.uint8).pin_memory() for _ in range(2)]
        self._copied = [torch.cuda.Event() for _ in range(2)]  # type: ignore[no-untyped-call]
        self._images = torch.zeros(batch, *size, 3, dtype=torch.uint8, device=device)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device), torch.cuda.stream(self._stream):
            for _ in range(2):  # first runs compile kernels and choose convolutions, which cannot be captured
                pipeline(self._images)
            self._stream.synchronize()
            # Other threads may score meanwhile, but not capture.
            with _capturing, torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                self._grids = pipeline(self._images)

    def run(self, images: Sequence[NDArray[np.uint8] | Tensor]) -> list[Tensor]:
        """Grids of up to `batch` images, copies. The slot's remaining images are scored too, and left out."""
        callers_stream = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(callers_stream)
        with torch.cuda.stream(self._stream):
            self._fill(images)
            self._graph.replay()
            grids = self._grids[: len(images)].clone()
        callers_stream.wait_stream(self._stream)
        grids.record_stream(callers_stream)
        return list(grids)

    def _fill(self, images: Sequence[NDArray[np.uint8] | Tensor]) -> None:
        self._pinned.reverse()
        self._copied.reverse()
        pinned, copied = self._pinned[0], self._copied[0]
        copied.synchronize()
        on_host = []
        for i, image in enumerate(images):
            if isinstance(image, Tensor) and image.is_cuda:
                self._images[i].copy_(image, non_blocking=True)
            else:
                pinned[i].numpy()[...] = image
                on_host.append(i)
        if len(on_host) == len(images):
            self._images[: len(images)].copy_(pinned[: len(images)], non_blocking=True)
        else:
            for i in on_host:
                self._images[i].copy_(pinned[i], non_blocking=True)
        copied.record(self._stream)
