"""A pipeline of three stages that run at the same time: read ahead, work, write behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any, Generic, NamedTuple, TypeVar

from glance_fast.data.source import CLOSE_SECONDS, Source, pass_on
from glance_fast.data.stream import Stream

Item = TypeVar("Item")
Read = TypeVar("Read")
Done = TypeVar("Done")
Written = TypeVar("Written")

# Items that are read before there is a thread to work on them: they bound the memory.
READ_AHEAD = 8
# Threads that read, and as many that write. Decoding and compressing, their main work, release the interpreter lock.
WORKERS = 2


def prefetch_map(
    items: Iterable[Item],
    read: Callable[[Item], Read],
    work: Callable[[Read], Done],
    write: Callable[[Done], Written],
    concurrency: int = 1,
    ahead: int = READ_AHEAD,
) -> Stream[Written]:
    """`Prefetch` of any iterable, as a stream."""
    steps = Prefetch(Source(items), read, work, write, concurrency, ahead)
    return Stream(steps, steps)


class _Begun(NamedTuple, Generic[Written]):
    """An item in work: the results of its stages."""

    reading: Future[Any]
    working: Future[Any]
    writing: Future[Written]


class Prefetch(Iterator[Written]):
    """`write(work(read(item)))` of each item, in order, made in threads whether or not it is asked for.

    `work` runs on `concurrency` items at a time. Of the source, which a thread of its own asks, at most
    `ahead` + `concurrency` items are taken whose results have not been asked for. An error of the source or of any
    stage is raised at its item's turn, after the results of all earlier items.
    """

    dropped = 0

    def __init__(
        self,
        source: Source[Item],
        read: Callable[[Item], Read],
        work: Callable[[Read], Done],
        write: Callable[[Done], Written],
        concurrency: int,
        ahead: int,
    ) -> None:
        self._stages = (read, work, write)
        self._pools = [ThreadPoolExecutor(threads) for threads in (WORKERS, concurrency, WORKERS)]
        self._begun: SimpleQueue[_Begun[Written] | None] = SimpleQueue()
        self._error: BaseException | None = None
        self._room = threading.Semaphore(ahead + concurrency - 1)
        self._source = source
        self._thread = pass_on(self._source, self._put, self._end)

    def _put(self, item: Any) -> None:
        (read, work, write), (readers, workers, writers) = self._stages, self._pools
        reading = readers.submit(read, item)
        working = workers.submit(lambda: work(reading.result()))
        self._begun.put(_Begun(reading, working, writers.submit(lambda: write(working.result()))))
        self._room.acquire()

    def _end(self, error: BaseException | None) -> None:
        self._error = error
        self._begun.put(None)

    def __next__(self) -> Written:
        begun = self._begun.get()
        if begun is None:
            self._begun.put(None)  # for the next call
            error, self._error = self._error, None
            raise error or StopIteration
        try:
            return begun.writing.result()
        finally:
            self._room.release()

    def close(self) -> None:
        """Stop: items whose work has begun are finished and written, the others dropped. Any thread may call it."""
        self._source.close()
        self._room.release()
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_SECONDS)
        while (begun := self._next_begun()) is not None:
            begun.reading.cancel()
            begun.working.cancel()
        for pool in self._pools:
            pool.shutdown()
        self._begun.put(None)

    def _next_begun(self) -> _Begun[Written] | None:
        try:
            return self._begun.get_nowait()
        except Empty:
            return None
