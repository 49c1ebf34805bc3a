"""The CUDA engine: the Triton kernels and Local-Net's convolutions, captured as one CUDA graph a batch size."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glance_fast.dense.triton_pipeline import TritonPipeline
from glance_fast.models.model import GlanceModel

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Images that one launch takes at most; fewer are rounded up to a power of two.
MOST = 32
_capturing = threading.Lock()


class CudaBackend:
    """Weights packed once; each thread that scores gets a lane of its own. Scores stay on the device."""

    name = "cuda"
    methods = ("dense",)
    takes_tensors = True
    streams = 1

    def __init__(self, model: GlanceModel, device: torch.device, precision: str) -> None:
        self._device, self._precision = device, precision
        self._pipeline = TritonPipeline(model, device, DTYPES[precision])
        self._size = model.config.image_size
        self._free: dict[int, list[Lane]] = {}

    @property
    def place(self) -> str:
        return f"{self._device} at {self._precision}"

    def grids(self, images: Sequence[NDArray[np.uint8] | Tensor], method: str = "dense") -> list[Tensor]:
        """Scores of all locations of each image, float32 [gy, gx] on the device."""
        assert method in self.methods
        pieces = (images[low : low + MOST] for low in range(0, len(images), MOST))
        return [grid for piece in pieces for grid in self._run(piece)]

    def _run(self, images: Sequence[NDArray[np.uint8] | Tensor]) -> list[Tensor]:
        batch = 1 << (len(images) - 1).bit_length()
        free = self._free.setdefault(batch, [])
        try:
            lane = free.pop()
        except IndexError:
            lane = Lane(self._pipeline, self._device, batch, self._size)
        try:
            return lane.run(images)
        finally:
            free.append(lane)


class Lane:
    """What one thread at a time scores `batch` images with: a stream, memory, and the captured launch."""

    def __init__(self, pipeline: TritonPipeline, device: torch.device, batch: int, size: tuple[int, int]) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # Two, so that the host fills one while the other is still being copied.
        self._pinned = [torch.empty(batch, *size, 3, dtype=torch.uint8).pin_memory() for _ in range(2)]
        self._copied = [torch.cuda.Event() for _ in range(2)]  # type: ignore[no-untyped-call]
        self._images = torch.zeros(batch, *size, 3, dtype=torch.uint8, device=device)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device), torch.cuda.stream(self._stream):
            for _ in range(2):  # kernels are compiled and convolutions chosen at first runs, which cannot be captured
                pipeline(self._images)
            self._stream.synchronize()
            # Other threads may score meanwhile, but not capture.
            with _capturing, torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                self._grids = pipeline(self._images)

    def run(self, images: Sequence[NDArray[np.uint8] | Tensor]) -> list[Tensor]:
        """Scores of up to `batch` images; what is beyond them in memory is scored too and left out."""
        outside = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            self._fill(images)
            self._graph.replay()
            grids = self._grids[: len(images)].clone()
        outside.wait_stream(self._stream)
        grids.record_stream(outside)
        return list(grids)

    def _fill(self, images: Sequence[NDArray[np.uint8] | Tensor]) -> None:
        self._pinned.reverse()
        self._copied.reverse()
        pinned, copied = self._pinned[0], self._copied[0]
        copied.synchronize()
        waiting = []
        for i, image in enumerate(images):
            if isinstance(image, Tensor) and image.is_cuda:
                self._images[i].copy_(image, non_blocking=True)
            else:
                pinned[i].numpy()[...] = image
                waiting.append(i)
        if len(waiting) == len(images):
            self._images[: len(images)].copy_(pinned[: len(images)], non_blocking=True)
        else:
            for i in waiting:
                self._images[i].copy_(pinned[i], non_blocking=True)
        copied.record(self._stream)
