"""Reading, working and writing at once: in order, bounded, and with nothing lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from glance_fast.commands.score_files import ScoreOptions, score_files
from glance_fast.data.prefetch import READ_AHEAD, prefetch_map
from glance_fast.engine import Engine
from glance_fast.errors import ImageError
from tests.helpers.images import save_images


def identity(item: int) -> int:
    return item


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_results_come_in_order_whatever_the_durations(at_once: int) -> None:
    def slow(item: int) -> int:
        time.sleep(0.01 * (item % 3))
        return item

    actual = prefetch_map(range(40), slow, lambda item: 2 * slow(item + 1), slow, at_once)
    assert [*actual] == [2 * item + 2 for item in range(40)]
    assert list(prefetch_map([], identity, identity, identity, at_once)) == []


def test_the_number_of_concurrent_items_is_the_argument() -> None:
    busy, max_busy, lock = [0], [0], threading.Lock()

    def work(item: int) -> int:
        with lock:
            busy[0] += 1
            max_busy[0] = max(max_busy[0], busy[0])
        time.sleep(0.005)
        with lock:
            busy[0] -= 1
        return item

    for at_once in (1, 2, 3):
        max_busy[0] = 0
        assert [*prefetch_map(range(30), identity, work, identity, at_once)] == [*range(30)]
        assert max_busy[0] == at_once


def test_the_three_steps_overlap() -> None:
    def step(item: int) -> int:
        time.sleep(0.02)
        return item

    start = time.perf_counter()
    assert len(list(prefetch_map(range(20), step, step, step))) == 20
    assert time.perf_counter() - start < 0.75 * 3 * 20 * 0.02


@pytest.mark.parametrize("at_once", [1, 3])
def test_an_endless_source_is_read_only_a_little_ahead(at_once: int) -> None:
    read, written = [0], [0]

    def source() -> Iterator[int]:
        while True:
            read[0] += 1
            yield read[0]

    def write(item: int) -> int:
        written[0] += 1
        return item

    stream = prefetch_map(source(), identity, identity, write, at_once)
    for item in stream:
        assert read[0] - written[0] <= 2 * READ_AHEAD
        if item == 100:
            break
    stream.close()
    assert threading.active_count() < 20


@pytest.mark.parametrize("where", [0, 1, 2])
@pytest.mark.parametrize("at_once", [1, 3])
def test_an_error_is_raised_in_order_and_finished_items_are_written(where: int, at_once: int) -> None:
    written: list[int] = []

    def fails(item: int) -> int:
        if item == 12:
            raise ImageError("twelve")
        return item

    def write(item: int) -> int:
        written.append(item)
        return item

    steps = [identity, identity, write]
    before = steps[where]
    steps[where] = lambda item: before(fails(item))
    results = prefetch_map(range(30), steps[0], steps[1], steps[2], at_once)
    assert [next(results) for _ in range(12)] == [*range(12)]
    with pytest.raises(ImageError, match="twelve"):
        next(results)
    results.close()
    assert {*range(12)} <= {*written}


def test_files_are_scored_in_order_and_an_interrupt_loses_nothing(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = save_images(tmp_path, 30)
    paths[5].write_bytes(b"no image")
    rows = score_files(engine, paths, tmp_path / "all")
    assert [row.path for row in rows] == [str(path) for path in paths]
    assert [row.error is not None for row in rows] == [number == 5 for number in range(30)]
    assert rows[7].score == engine.score(paths[7]).score and rows[7].overlay is not None
    assert len(list((tmp_path / "all" / "overlays").iterdir())) == 29
    alarms = score_files(engine, paths, tmp_path / "alarms", ScoreOptions(overlays="anomalous"))
    assert [row.overlay is not None for row in alarms] == [bool(row.is_anomalous) for row in alarms]
    count, score = [0], Engine.score

    def interrupted(self: Engine, *arguments: object) -> object:
        count[0] += 1
        if count[0] == 20:
            raise KeyboardInterrupt
        return score(self, *arguments)  # type: ignore[call-overload]

    monkeypatch.setattr(Engine, "score", interrupted)
    with pytest.raises(KeyboardInterrupt):
        score_files(engine, paths, tmp_path / "some")
    lines = (tmp_path / "some" / "scores.jsonl").read_text().splitlines()
    assert len(lines) >= 20  # nineteen that were scored, the file that is no image, and what had begun meanwhile
    assert np.isfinite([row.score for row in rows if row.score is not None]).all()
