"""A CUDA graph of what a stream does: recorded once, launched as one. PyCUDA has none, so the driver is asked."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from glance_fast.errors import BackendError

# Other threads may allocate memory meanwhile, as they cannot in the driver's default mode.
THREAD_LOCAL = 1


class CapturedWork:
    """What `work()` put into a stream, as one launch into the same stream."""

    def __init__(self, stream: Any, work: Callable[[], None]) -> None:
        self._stream = ctypes.c_void_p(stream.handle)
        graph, self._launchable = ctypes.c_void_p(), ctypes.c_void_p()
        _ask("cuStreamBeginCapture_v2", self._stream, ctypes.c_int(THREAD_LOCAL))
        try:
            work()
        finally:
            # Also after an error: a stream that goes on capturing is of no use to anybody.
            _ask("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        _ask("cuGraphInstantiateWithFlags", ctypes.byref(self._launchable), graph, ctypes.c_ulonglong(0))
        _ask("cuGraphDestroy", graph)

    def launch(self) -> None:
        """Put the whole work into the stream."""
        _ask("cuGraphLaunch", self._launchable, self._stream)


@cache
def driver_library() -> Any:
    """The CUDA driver's own library."""
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


def _ask(function: str, *arguments: Any) -> None:
    status = getattr(driver_library(), function)(*arguments)
    if status:
        raise BackendError(f"the CUDA driver's {function} failed with status {status}")
