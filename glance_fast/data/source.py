"""The source of a stream: an iterator that is asked by one thread at a time, and closed when its stream is."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")

# Seconds that closing waits for a source that is about to give an item: a camera may wait for its next part for ever.
CLOSE_SECONDS = 1.0

log = logging.getLogger("glance_fast")


class Source(Iterator[Item]):
    """The items of an iterable, each as `take` returns it before the next one is asked for.

    Any thread may close it. Then it ends, and its iterator is closed by the rule of `yield from`: if it has a method
    `close`, as generators have, and has neither ended nor failed.
    """

    dropped = 0

    def __init__(self, items: Iterable[Any], take: Callable[[Any], Item] = lambda item: item) -> None:
        self._items = iter(items)
        self._take = take
        self._asked = threading.Lock()
        self._ended = self._closed = False

    def __next__(self) -> Item:
        with self._asked:
            item = self._ask()
            if self._closed:
                self._close_items()
                raise StopIteration
            return self._take(item)

    def _ask(self) -> Any:
        if self._ended:
            raise StopIteration
        try:
            return next(self._items)
        except BaseException:
            self._ended = True
            raise

    def close(self) -> None:
        """Close the iterator: at once, or when it gives the item that it was asked for."""
        self._closed = True
        if not self._asked.acquire(timeout=CLOSE_SECONDS):
            log.warning("the source of a closed stream has not returned; it is closed when it gives its next image")
            return
        try:
            self._close_items()
        finally:
            self._asked.release()

    def _close_items(self) -> None:
        ended, self._ended = self._ended, True
        if not ended and hasattr(self._items, "close"):
            self._items.close()


def pass_on(
    source: Iterable[Item], put: Callable[[Item], None], end: Callable[[BaseException | None], None]
) -> threading.Thread:
    """A thread that asks `source` and gives each item to `put`, then its error, or None at its end, to `end`."""

    def run() -> None:
        try:
            for item in source:
                put(item)
        except BaseException as error:  # noqa: BLE001 - whoever takes the items raises it again
            end(error)
        else:
            end(None)

    # A daemon: a camera that never gives another frame must not keep the program from ending.
    thread = threading.Thread(target=run, name="glance_fast source", daemon=True)
    thread.start()
    return thread
