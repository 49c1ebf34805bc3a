"""Pillow's warnings as errors: a decoder that doubts a file has not read it."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

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
