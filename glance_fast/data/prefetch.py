"""A pipeline of three stages that run at the same time: read ahead, work, write behind."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Done = TypeVar("Done")
Written = TypeVar("Written")

# Items in the queue of read items, and in that of results being written: they bound the memory.
READ_AHEAD = 8
# Threads that read, and as many that write. Decoding and compressing, their main work, release the interpreter lock.
WORKERS = 2


def prefetch_map(
    items: Iterable[Item],
    read: Callable[[Item], Read],
    work: Callable[[Read], Done],
    write: Callable[[Done], Written],
    concurrency: int = 1,
) -> Generator[Written, None, None]:
    """`write(work(read(item)))` of each item, in order.

    `work` runs on `concurrency` items at a time, each in a thread; with 1, in the caller's thread. The input queue
    holds max(READ_AHEAD, 2 * concurrency) items, the output queue READ_AHEAD. An error of any stage is raised at its
    item's turn, after the results of all earlier items.
    """
    source = iter(items)
    reading: deque[Future[Read]] = deque()
    working: deque[Callable[[], Done]] = deque()
    writing: deque[Future[Written]] = deque()
    pools = (ThreadPoolExecutor(WORKERS), ThreadPoolExecutor(concurrency), ThreadPoolExecutor(WORKERS))
    with pools[0] as readers, pools[1] as workers, pools[2] as writers:

        def begin(waiting: Future[Read]) -> Callable[[], Done]:
            if concurrency > 1:
                return workers.submit(lambda: work(waiting.result())).result
            return lambda: work(waiting.result())

        try:
            reading.extend(readers.submit(read, item) for item in islice(source, max(READ_AHEAD, 2 * concurrency)))
            while reading or working:
                while reading and len(working) <= concurrency:  # an additional item waits, so that no thread is idle
                    working.append(begin(reading.popleft()))
                writing.append(writers.submit(write, working.popleft()()))
                reading.extend(readers.submit(read, item) for item in islice(source, 1))
                while writing and (len(writing) >= READ_AHEAD or writing[0].done()):
                    yield writing.popleft().result()
            while writing:
                yield writing.popleft().result()
        finally:
            for waiting in reading:
                waiting.cancel()
