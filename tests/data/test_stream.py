"""Sources, read ahead and newest-only: in order, bounded, closed, and nothing that waits for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from glance_fast.data.latest import Latest
from glance_fast.data.owned import owned
from glance_fast.data.prefetch import Prefetch
from glance_fast.data.source import Source
from glance_fast.data.stream import Stream

Feed = Source[int] | Prefetch[int] | Latest[int]


def in_turn(items: Any) -> Feed:
    return Source(items)


def ahead(items: Any) -> Feed:
    return Prefetch(Source(items), identity, identity, identity, 1, 2)


def latest(items: Any) -> Feed:
    return Latest(Source(items))


def identity(item: int) -> int:
    return item


feeds = pytest.mark.parametrize("feed", [in_turn, ahead, latest])


def wait_for(condition: Callable[[], bool]) -> None:
    """Fails after 5 seconds."""
    limit = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.002)


class Camera:
    """Gives the numbers 0, 1, … when `trigger` says so, and notes what happens to it."""

    def __init__(self) -> None:
        self.trigger = threading.Semaphore(0)
        self.asked = 0
        self.closed = False

    def __iter__(self) -> Iterator[int]:
        try:
            while True:
                self.asked += 1
                self.trigger.acquire()
                yield self.asked - 1
        finally:
            self.closed = True


@feeds
def test_items_come_in_order_and_the_end_stays_the_end(feed: Callable[[Any], Feed]) -> None:
    camera = Camera()
    stream = feed(camera)
    for number in range(10):
        camera.trigger.release()
        assert next(stream) == number
    stream.close()
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(stream)
    assert stream.dropped == 0


@feeds
def test_an_error_of_the_source_comes_after_its_items_and_once(feed: Callable[[Any], Feed]) -> None:
    camera = Camera()

    def failing() -> Iterator[int]:
        for number in camera:
            yield number
            if number == 3:
                raise OSError("camera lost")

    stream = feed(failing())
    for number in range(4):
        camera.trigger.release()
        assert next(stream) == number
    with pytest.raises(OSError, match="camera lost"):
        next(stream)
    with pytest.raises(StopIteration):
        next(stream)


@feeds
def test_closing_closes_a_generator_that_has_more_to_give(feed: Callable[[Any], Feed]) -> None:
    camera = Camera()
    stream = feed(camera)
    camera.trigger.release(2)
    next(stream)
    if feed is not in_turn:
        camera.trigger.release()  # the thread asks for the next item meanwhile
    stream.close()
    stream.close()
    wait_for(lambda: camera.closed) if feed is not in_turn else None
    assert camera.closed


@feeds
def test_a_source_that_has_failed_is_not_closed(feed: Callable[[Any], Feed]) -> None:
    """A program may ask its camera again after a timeout."""

    class Timeouts:
        closed = False

        def __iter__(self) -> Timeouts:
            return self

        def __next__(self) -> int:
            raise TimeoutError("no part")

        def close(self) -> None:
            self.closed = True

    camera = Timeouts()
    stream = feed(camera)
    with pytest.raises(TimeoutError):
        next(stream)
    stream.close()
    assert not camera.closed


@pytest.mark.parametrize("feed", [ahead, latest])
def test_closing_from_another_thread_ends_a_wait(
    feed: Callable[[Any], Feed], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glance_fast.data.source.CLOSE_SECONDS", 0.05)
    camera, seen = Camera(), list[int]()
    stream = feed(camera)
    reader = threading.Thread(target=lambda: seen.extend(stream))
    reader.start()
    wait_for(lambda: camera.asked == 1)
    stream.close()
    reader.join(5)
    assert not reader.is_alive() and seen == []
    assert "has not returned" in caplog.text and not camera.closed
    camera.trigger.release()
    wait_for(lambda: camera.closed)
    assert camera.asked == 1


def test_a_source_in_turn_ends_after_the_item_that_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glance_fast.data.source.CLOSE_SECONDS", 0.05)
    camera, seen = Camera(), list[int]()
    source = Source[int](camera)
    reader = threading.Thread(target=lambda: seen.extend(source))
    reader.start()
    wait_for(lambda: camera.asked == 1)
    source.close()
    camera.trigger.release()
    reader.join(5)
    assert not reader.is_alive() and seen == [] and camera.closed


def test_the_last_reference_closes_the_source() -> None:
    for feed in (in_turn, ahead, latest):
        camera = Camera()
        camera.trigger.release(1)
        steps = feed(camera)
        stream = Stream(steps, steps)
        assert next(stream) == 0
        camera.trigger.release(9)
        del stream
        wait_for(lambda: camera.closed)  # noqa: B023 - called in this turn
    with Stream(steps := Source(camera := Camera()), steps) as stream:
        camera.trigger.release()
        next(stream)
    assert camera.closed


def test_reading_ahead_stops_at_its_bound() -> None:
    camera = Camera()
    camera.trigger.release(100)
    stream = Prefetch(Source(camera), identity, identity, identity, concurrency=2, ahead=3)
    wait_for(lambda: camera.asked == 5)
    time.sleep(0.05)
    assert camera.asked == 5
    for number in range(20):
        assert next(stream) == number
        wait_for(lambda: camera.asked == number + 6)  # noqa: B023 - called in this turn
    stream.close()


def test_a_result_does_not_wait_for_the_next_item() -> None:
    camera = Camera()
    stream = Prefetch(Source(camera), identity, identity, identity, concurrency=1, ahead=8)
    camera.trigger.release()
    start = time.perf_counter()
    assert next(stream) == 0
    assert time.perf_counter() - start < 1
    camera.trigger.release()
    stream.close()


def test_only_the_newest_item_is_given_and_the_others_are_counted() -> None:
    camera = Camera()
    stream = Latest[int](Source(camera))
    for rounds in (1, 2, 3):
        camera.trigger.release(10)
        wait_for(lambda: stream.dropped == 9 * rounds)  # noqa: B023 - called in this turn
        assert next(stream) == 10 * rounds - 1
    camera.trigger.release()
    stream.close()


def test_work_that_fails_comes_after_earlier_results_and_work_that_has_begun_is_written() -> None:
    written, gate = list[int](), threading.Event()

    def work(item: int) -> int:
        if item == 2:
            gate.wait(5)
            raise MemoryError
        return item

    def write(item: int) -> int:
        written.append(item)
        return item

    stream = Prefetch(Source(range(50)), identity, work, write, 3, 8)
    assert [next(stream), next(stream)] == [0, 1]
    gate.set()
    with pytest.raises(MemoryError):
        next(stream)
    stream.close()
    assert {0, 1} <= {*written} and 2 not in written and len(written) < 49


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_a_copy_is_not_reached_by_later_frames(kind: Callable[[Any], Any]) -> None:
    buffer = np.zeros((4, 5, 3), np.uint8)
    image = kind(buffer)
    copy = owned(image)
    assert type(copy) is type(image)
    buffer[...] = 7
    assert int(np.asarray(image).min()) == 7 and int(np.asarray(copy).max()) == 0
