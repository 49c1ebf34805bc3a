"""CUDA graphs by the driver's own library, as PyCUDA has none: work in a stream, recorded once, launched as one."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from glance_fast.errors import BackendError

# CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate memory during a capture, unlike in the default mode.
THREAD_LOCAL = 1


class CapturedWork:
    """The work that `work()` puts into a stream, captured; `launch` repeats it in the same stream."""

    def __init__(self, stream: Any, work: Callable[[], None]) -> None:
        self._stream = ctypes.c_void_p(stream.handle)
        graph, self._launchable = ctypes.c_void_p(), ctypes.c_void_p()
        _call("cuStreamBeginCapture_v2", self._stream, ctypes.c_int(THREAD_LOCAL))
        try:
            work()
        finally:
            # Also after an error: a stream that is still capturing cannot be used again.
            _call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        _call("cuGraphInstantiateWithFlags", ctypes.byref(self._launchable), graph, ctypes.c_ulonglong(0))
        _call("cuGraphDestroy", graph)

    def launch(self) -> None:
        """Put all the work into the stream; raises BackendError."""
        _call("cuGraphLaunch", self._launchable, self._stream)


@cache
def driver_library() -> Any:
    """The CUDA driver's own library."""
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


def _call(function: str, *arguments: Any) -> None:
    status = getattr(driver_library(), function)(*arguments)
    if status:
        raise BackendError(f"the CUDA driver's {function} failed with status {status}")
