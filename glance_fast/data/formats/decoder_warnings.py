"""Warnings of Pillow and tifffile as errors: a decoder that doubts a file has not read it."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from PIL import Image

from glance_fast.data.formats.decoded import FormatError

_lock = threading.Lock()
_users = 0
_filters: warnings.catch_warnings[None]


@contextmanager
def pillow_warnings_as_errors() -> Iterator[None]:
    """Raise what Pillow warns of; the size of an image is checked by `check_size` and not warned of.

    Filters are global: the first of concurrent users sets them, the last restores what was there before.
    """
    global _users, _filters
    with _lock:
        if _users == 0:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            warnings.filterwarnings("error", module=r"PIL\.")
            warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _filters.__exit__(None, None, None)


_messages: ContextVar[list[str] | None] = ContextVar("messages", default=None)


def _collect(record: logging.LogRecord) -> bool:
    """A filter of tifffile's log: while this thread decodes, warnings are collected and not printed."""
    messages = _messages.get()
    if messages is None or record.levelno < logging.WARNING:
        return True
    messages.append(record.getMessage())
    return False


logging.getLogger("tifffile").addFilter(_collect)


@contextmanager
def tifffile_warnings_as_errors() -> Iterator[None]:
    """Raise FormatError at the end for what tifffile has logged as a warning or an error."""
    token = _messages.set([])
    try:
        yield
        if messages := _messages.get():
            raise FormatError(f"cannot be read: {messages[0]}; save it again, or take it out")
    finally:
        _messages.reset(token)
