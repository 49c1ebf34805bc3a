"""TensorRT's error messages: its functions return None and report the reason to a logger only."""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Any, Protocol

logger = logging.getLogger("glance_fast")


class ErrorLog(Protocol):
    """A logger for TensorRT's functions."""

    def take_errors(self) -> str:
        """The errors since the last call, joined."""


def make_log(trt: ModuleType) -> ErrorLog:
    """A logger for `tensorrt` or `tensorrt_lean`, each of which needs a subclass of its own ILogger."""
    levels = trt.ILogger.Severity

    class Collected(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (levels.INTERNAL_ERROR, levels.ERROR):
                self.errors.append(msg)
            elif severity == levels.WARNING:
                logger.debug("TensorRT: %s", msg)

        def take_errors(self) -> str:
            errors, self.errors = self.errors, []
            return "; ".join(errors) or "it gives no reason"

    return Collected()
