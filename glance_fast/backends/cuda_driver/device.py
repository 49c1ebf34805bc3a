"""One GPU through PyCUDA: its primary context, which PyTorch and other code in the process share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pycuda.driver as driver
from numpy.typing import DTypeLike, NDArray

from glance_fast.errors import BackendError


class Cuda:
    """A GPU's memory and streams. Use them inside `with cuda.current():`, in any thread.

    Raises BackendError where there is no such device.
    """

    def __init__(self, index: int = 0) -> None:
        try:
            driver.init()
            count = driver.Device.count()
        except driver.Error as error:
            raise BackendError(f"no CUDA device can be used: {error}; use device='cpu'") from None
        if not 0 <= index < count:
            raise BackendError(f"device 'cuda:{index}' was requested, but there are {count} CUDA devices")
        self._device = driver.Device(index)
        self._context = self._device.retain_primary_context()

    @property
    def gpu(self) -> str:
        """The GPU's name."""
        return str(self._device.name())

    @property
    def capability(self) -> str:
        """Its compute capability: "9.0"."""
        major, minor = self._device.compute_capability()
        return f"{major}.{minor}"

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the GPU's context current in this thread, for the with-block."""
        self._context.push()
        try:
            yield
        finally:
            driver.Context.pop()

    def stream(self) -> Any:
        """A new stream: `handle`, `synchronize()`."""
        return driver.Stream()

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Page-locked memory on the host, as an array; its content is undefined."""
        array: NDArray[Any] = driver.pagelocked_empty(shape, np.dtype(dtype))
        return array

    def buffer(self, size: int) -> Any:
        """`size` bytes of memory on the GPU; `int()` of it is the address, and it is freed with the object."""
        return driver.mem_alloc(size)

    def upload(self, buffer: Any, array: NDArray[Any], stream: Any) -> None:
        """Copy page-locked memory to the GPU, in the stream's order."""
        driver.memcpy_htod_async(buffer, array, stream)

    def download(self, array: NDArray[Any], buffer: Any, stream: Any) -> None:
        """Copy from the GPU to page-locked memory, in the stream's order."""
        driver.memcpy_dtoh_async(array, buffer, stream)


def device_index(device: str) -> int:
    """The index in "cuda:<index>", 0 for "cuda"; raises BackendError for another device."""
    kind, colon, index = device.partition(":")
    if kind != "cuda" or (colon and not index.isdecimal()):
        raise BackendError(f"device {device!r} is no GPU; legal are cuda and cuda:<index>")
    return int(index or 0)
