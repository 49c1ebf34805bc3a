"""Three things at once: reading what comes next, working on one item at a time, and writing what is done."""

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
) -> Generator[Written, None, None]:
    """`write(work(read(item)))` of each item, in order; `work` runs in the caller's thread, one at a time.

    At most `AHEAD` items are read and wait for their turn, and as many are worked on and wait to be written. An
    error in any of the three is raised where its item's turn has come; what was worked on before is written first.
    """
    coming = iter(items)
    reading: deque[Future[Read]] = deque()
    writing: deque[Future[Written]] = deque()
    with ThreadPoolExecutor(WORKERS) as readers, ThreadPoolExecutor(WORKERS) as writers:
        try:
            reading.extend(readers.submit(read, item) for item in islice(coming, AHEAD))
            while reading:
                writing.append(writers.submit(write, work(reading.popleft().result())))
                reading.extend(readers.submit(read, item) for item in islice(coming, 1))
                while writing and (len(writing) >= AHEAD or writing[0].done()):
                    yield writing.popleft().result()
            while writing:
                yield writing.popleft().result()
        finally:
            for waiting in reading:
                waiting.cancel()
