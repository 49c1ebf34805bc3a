"""The CUDA backend's slots on a stand-in for streams and graphs: copies, launches and results, without a GPU.

The stand-in runs everything at once and in order, so it cannot show races; a captured launch is repeated on the
content of the slot's memory, as a graph does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from glance_fast.backends import cuda_backend
from glance_fast.backends.cuda_backend import CudaBackend
from tests.helpers.models import fitted_model

SIZE = (40, 37)

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="tests/dense/test_triton_pipeline.py does it on the GPU"
)


class Stream:
    """A stream that is always done, and an event of one."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device

    def wait_stream(self, other: Stream) -> None: ...
    def synchronize(self) -> None: ...
    def record(self, stream: Stream) -> None: ...


class Graph:
    """What was launched while it was captured, to be launched again."""

    capturing: Graph | None = None

    def __init__(self) -> None:
        self.launches: list[Callable[[], object]] = []
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        for launch in self.launches:
            launch()


@contextmanager
def capture(graph: Graph, stream: Stream, capture_error_mode: str) -> Iterator[None]:
    assert Graph.capturing is None, "two captures at once"
    Graph.capturing = graph
    time.sleep(0.01)  # a turn for other threads, which must not capture meanwhile
    yield
    Graph.capturing = None


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> CudaBackend:
    parts = {"Stream": Stream, "Event": Stream, "CUDAGraph": Graph, "graph": capture, "current_stream": Stream}
    for name, part in parts.items():
        monkeypatch.setattr(torch.cuda, name, part)
    for name in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, name, lambda _: nullcontext())
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: None)
    monkeypatch.setattr(cuda_backend, "MAX_BATCH", 4)
    fake_backend = CudaBackend(fitted_model({"image_size": SIZE}), torch.device("cpu"), "fp32")

    def pipeline(images: Tensor) -> Tensor:
        scores = mean_grid(images)
        if Graph.capturing is not None:
            Graph.capturing.launches.append(lambda: scores.copy_(mean_grid(images)))
        return scores

    monkeypatch.setattr(fake_backend, "_pipeline", pipeline)
    return fake_backend


def mean_grid(images: Tensor) -> Tensor:
    """In place of the kernels, which have tests of their own: a grid that differs from image to image."""
    return images.float().mean(dim=3)[:, ::8, ::8].clone()


def photos(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, *SIZE, 3), np.uint8)


def assert_same_grids(actual: list[Tensor], images: NDArray[np.uint8]) -> None:
    torch.testing.assert_close(torch.stack(actual), mean_grid(torch.from_numpy(images)), rtol=0, atol=0)


def test_every_number_of_images_gets_its_scores(backend: Any) -> None:
    """One, a power of two, between two, more than a launch takes; and again, in memory that held others."""
    images = photos(7)
    for part in (slice(0, 1), slice(1, 3), slice(2, 5), slice(0, 7), slice(6, 7)):
        assert_same_grids(backend.grids(list(images[part])), images[part])
    assert {size: len(slots) for size, slots in backend._launches.slots.items()} == {1: 1, 2: 1, 4: 1}


def test_arrays_and_tensors_may_be_mixed_and_results_outlive_the_next_run(backend: Any) -> None:
    images = photos(6)
    first = backend.grids([images[0], torch.from_numpy(images[1]), images[2]])
    backend.grids(list(images[3:]))
    assert_same_grids(first, images[:3])


def test_the_host_fills_one_buffer_while_the_other_is_copied(backend: Any) -> None:
    images = photos(3)
    for image in images:
        backend.grids([image])
    with backend._launches.slots[1].lend() as slot:
        assert slot._graph.replays == 3
        now, before = (buffer[0].numpy() for buffer in slot._pinned)
    np.testing.assert_array_equal(now, images[2])
    np.testing.assert_array_equal(before, images[1])


def test_threads_have_separate_slots_and_capture_one_after_the_other(backend: Any) -> None:
    images = photos(64)
    with ThreadPoolExecutor(8) as pool:
        actual = list(pool.map(lambda image: backend.grids([image])[0], images))
    assert_same_grids(actual, images)
    assert 1 <= len(backend._launches.slots[1]) <= 8
