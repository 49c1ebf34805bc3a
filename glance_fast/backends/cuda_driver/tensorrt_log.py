"""What TensorRT says, kept: its functions return None and tell the reason only to a logger."""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Any, Protocol

logger = logging.getLogger("glance_fast")


class Log(Protocol):
    """A logger for TensorRT's functions."""

    def told(self) -> str:
        """The errors since the last call."""


def make_log(trt: ModuleType) -> Log:
    """A logger for `tensorrt` or `tensorrt_lean`, each of which wants one of its own class."""
    severity = trt.ILogger.Severity

    class Kept(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity_of: Any, msg: str) -> None:
            if severity_of in (severity.INTERNAL_ERROR, severity.ERROR):
                self.errors.append(msg)
            elif severity_of == severity.WARNING:
                logger.debug("TensorRT: %s", msg)

        def told(self) -> str:
            errors, self.errors = self.errors, []
            return "; ".join(errors) or "it gives no reason"

    return Kept()
