"""Three things at once: reading what comes next, working on an item or a few, and writing what is done."""

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

# Items that are read ahead, and as many that are still being written: what bounds the memory.
AHEAD = 8
# Threads that read, and as many that write; what they mostly do, decoding and compressing, leaves Python free.
WORKERS = 2


def overlapped(
    items: Iterable[Item],
    read: Callable[[Item], Read],
    work: Callable[[Read], Done],
    write: Callable[[Done], Written],
    at_once: int = 1,
) -> Generator[Written, None, None]:
    """`write(work(read(item)))` of each item, in order.

    `work` runs on `at_once` items at a time, in threads of its own, or on one in the caller's thread.

    At most `AHEAD` items, or two for each that is worked on, are read and wait for their turn or are worked on, and at
    most `AHEAD` wait to be written. An error in any of the three is raised where its item's turn has come; what was
    worked on before is written first.
    """
    coming = iter(items)
    reading: deque[Future[Read]] = deque()
    working: deque[Callable[[], Done]] = deque()
    writing: deque[Future[Written]] = deque()
    pools = (ThreadPoolExecutor(WORKERS), ThreadPoolExecutor(at_once), ThreadPoolExecutor(WORKERS))
    with pools[0] as readers, pools[1] as workers, pools[2] as writers:

        def begin(waiting: Future[Read]) -> Callable[[], Done]:
            if at_once > 1:
                return workers.submit(lambda: work(waiting.result())).result
            return lambda: work(waiting.result())

        try:
            reading.extend(readers.submit(read, item) for item in islice(coming, max(AHEAD, 2 * at_once)))
            while reading or working:
                while reading and len(working) <= at_once:  # one more waits, so that none is idle
                    working.append(begin(reading.popleft()))
                writing.append(writers.submit(write, working.popleft()()))
                reading.extend(readers.submit(read, item) for item in islice(coming, 1))
                while writing and (len(writing) >= AHEAD or writing[0].done()):
                    yield writing.popleft().result()
            while writing:
                yield writing.popleft().result()
        finally:
            for waiting in reading:
                waiting.cancel()
