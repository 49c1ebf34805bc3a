"""A CUDA device on the host, to run what drives one: memory is the host's, and a stream does nothing until it must.

It holds to the rules that a program meets on a device: nothing without a current context, copies that have not happened
before the stream is waited for, page-locked memory for copies, a graph that was captured first.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Work = Callable[[], None]

pushed = threading.local()
streams: dict[int, FakeStream] = {}
graphs: dict[int, list[Work]] = {}


def need_context() -> None:
    assert getattr(pushed, "depth", 0) > 0, "no context is current in this thread"


class FakeStream:
    """Work in order, done at `synchronize`."""

    def __init__(self) -> None:
        need_context()
        self.handle = len(streams) + 1
        self.queue: list[Work] = []
        self.captured: list[Work] | None = None
        streams[self.handle] = self

    def put(self, work: Work) -> None:
        (self.queue if self.captured is None else self.captured).append(work)

    def synchronize(self) -> None:
        assert self.captured is None, "a stream that is being captured cannot be waited for"
        need_context()
        for work in self.queue:
            work()
        self.queue.clear()


class FakeBuffer:
    """Memory of the device; its address is the host's."""

    def __init__(self, size: int) -> None:
        need_context()
        self.size = size
        self._bytes = (ctypes.c_ubyte * size)(*([0xAB] * min(size, 64)))

    def __int__(self) -> int:
        return ctypes.addressof(self._bytes)


def view(address: int, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Memory at an address, as an array."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape)) * kind.itemsize
    array: NDArray[Any] = np.ctypeslib.as_array((ctypes.c_ubyte * size).from_address(address)).view(kind).reshape(shape)
    return array


class Pinned(np.ndarray[Any, Any]):
    """Page-locked memory."""


def pagelocked_empty(shape: tuple[int, ...], dtype: DTypeLike, order: str = "C", mem_flags: int = 0) -> Pinned:
    need_context()
    return np.full(shape, 0x5A, dtype).view(Pinned)


def _copy(to: int, array: NDArray[Any], stream: FakeStream, up: bool) -> None:
    need_context()
    assert isinstance(array, Pinned) and array.flags.c_contiguous, "copies in a stream's order need page-locked memory"

    def work() -> None:
        memory = view(to, array.shape, array.dtype)
        if up:
            memory[...] = array
        else:
            array[...] = memory

    stream.put(work)


class Driver(ModuleType):
    """`pycuda.driver`, as far as we use it."""

    class Error(Exception):
        pass

    class Context:
        @staticmethod
        def pop() -> None:
            need_context()
            pushed.depth -= 1

        def push(self) -> None:
            pushed.depth = getattr(pushed, "depth", 0) + 1

    def __init__(self, devices: list[tuple[str, tuple[int, int]]]) -> None:
        super().__init__("pycuda.driver")
        driver = self

        class Device:
            def __init__(self, index: int) -> None:
                self._name, self._capability = devices[index]

            @staticmethod
            def count() -> int:
                return len(devices)

            def name(self) -> str:
                return self._name

            def compute_capability(self) -> tuple[int, int]:
                return self._capability

            def retain_primary_context(self) -> Driver.Context:
                return driver.Context()

        self.Device = Device
        self.Stream = FakeStream
        self.pagelocked_empty = pagelocked_empty
        self.mem_alloc = FakeBuffer
        self.memcpy_htod_async = lambda dest, src, stream: _copy(int(dest), src, stream, True)
        self.memcpy_dtoh_async = lambda dest, src, stream: _copy(int(src), dest, stream, False)

    def init(self) -> None:
        if not self.Device.count():
            raise self.Error("cuInit failed: no CUDA-capable device is detected")


class Library:
    """The driver's library, as far as graphs go; `fails` holds the status that a function gives instead of working."""

    def __init__(self) -> None:
        self.fails: dict[str, int] = {}

    def __getattr__(self, name: str) -> Callable[..., int]:
        does: dict[str, Callable[..., None]] = {
            "cuStreamBeginCapture_v2": self._begin,
            "cuStreamEndCapture": self._end,
            "cuGraphInstantiateWithFlags": self._instantiate,
            "cuGraphDestroy": lambda graph: None,
            "cuGraphLaunch": self._launch,
        }

        def call(*arguments: Any) -> int:
            if not self.fails.get(name):
                does[name](*arguments)
            return self.fails.get(name, 0)

        return call

    def _begin(self, stream: ctypes.c_void_p, mode: ctypes.c_int) -> None:
        assert mode.value == 1
        streams[stream.value or 0].captured = []

    def _end(self, stream: ctypes.c_void_p, graph: Any) -> None:
        captured = streams[stream.value or 0].captured
        assert captured is not None
        graph._obj.value = len(graphs) + 1
        graphs[len(graphs) + 1] = captured
        streams[stream.value or 0].captured = None

    def _instantiate(self, launchable: Any, graph: ctypes.c_void_p, flags: ctypes.c_ulonglong) -> None:
        launchable._obj.value = graph.value

    def _launch(self, launchable: ctypes.c_void_p, stream: ctypes.c_void_p) -> None:
        for work in graphs[launchable.value or 0]:
            streams[stream.value or 0].put(work)
