"""The newest item of a source, for a reader that is slower than the source."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TypeVar

from glance_fast.data.source import CLOSE_SECONDS, Source, pass_on

Item = TypeVar("Item")


class Latest(Iterator[Item]):
    """The newest items of a source, each at most once; a thread takes all of them as soon as the source gives them.

    `dropped`: how many were replaced by a newer one before they were asked for. An error of the source is raised after
    the last item.
    """

    def __init__(self, source: Source[Item]) -> None:
        self.dropped = 0
        self._newest: list[Item] = []  # of one item or none
        self._error: BaseException | None = None
        self._ended = False
        self._changed = threading.Condition()
        self._source = source
        self._thread = pass_on(self._source, self._put, self._end)

    def _put(self, item: Item) -> None:
        with self._changed:
            self.dropped += len(self._newest)
            self._newest = [item]
            self._changed.notify()

    def _end(self, error: BaseException | None) -> None:
        with self._changed:
            self._error, self._ended = error, True
            self._changed.notify_all()

    def __next__(self) -> Item:
        with self._changed:
            self._changed.wait_for(lambda: self._newest or self._ended)
            if self._newest:
                return self._newest.pop()
            error, self._error = self._error, None
            raise error or StopIteration

    def close(self) -> None:
        """Close the source and drop what has not been asked for. Any thread may call it."""
        self._source.close()
        self._end(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_SECONDS)
        self._newest.clear()
