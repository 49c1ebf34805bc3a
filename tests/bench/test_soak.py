"""The soak counts every score that is not the first one, and says what grew."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.soak import Count, State, bits, faults


def result(score: float, value: float = 0.0) -> Any:
    return SimpleNamespace(score=score, map=np.full((2, 2), value, np.float32))


def test_a_score_or_a_map_of_other_bits_is_counted() -> None:
    count, first = Count(), [bits(result(1.0)), bits(result(2.0, 0.5))]
    count.add([result(1.0), result(2.0, 0.5)], first)
    assert (count.scores, count.different) == (2, 0)
    count.add([result(float(np.nextafter(1.0, 2.0))), result(2.0, 0.25)], first)
    assert (count.scores, count.different) == (4, 2)


@pytest.mark.parametrize(
    ("state", "scores", "different", "expected"),
    [
        (State(150.0, 12, 9), 5, 0, []),
        (State(500.0, 80, 9), 5, 0, ["memory_mb grew by 400.0", "threads grew by 70"]),
        (State(100.0, 10, 8), 5, 3, ["3 scores differ"]),
        (State(100.0, 10, 8), 0, 0, ["nothing was scored: give it more minutes"]),
    ],
)
def test_a_fault_is_named(state: State, scores: int, different: int, expected: list[str]) -> None:
    assert faults({"scores": scores, "different": different, "grown": state.grown(State(100.0, 10, 8))}) == expected


def test_the_state_is_of_this_process() -> None:
    state = State.now()
    assert state.memory_mb > 10 and state.threads >= 1 and state.files >= 3
