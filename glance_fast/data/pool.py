"""A pool of objects that one thread at a time may use: inference requests, streams, workspaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Pool(Generic[Item]):
    """Lends items to threads. It holds as many as were ever in use at the same time; `make` creates another."""

    def __init__(self, make: Callable[[], Item]) -> None:
        self._make = make
        self._free: list[Item] = []

    def __len__(self) -> int:
        """Number of items that are not lent."""
        return len(self._free)

    @contextmanager
    def lend(self) -> Iterator[Item]:
        """Lend an item for the duration of the with-block. Any number of threads may borrow at once."""
        try:
            # The only test that is safe between threads: pop and append of a list are atomic.
            item = self._free.pop()
        except IndexError:
            item = self._make()
        try:
            yield item
        finally:
            self._free.append(item)
