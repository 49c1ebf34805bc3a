"""The watchdog says of each fault what it is: a check of damage that finds nothing has looked."""

from __future__ import annotations

import os
import signal
import time

from glance_fast.errors import ModelFolderError
from tests.helpers.judge import DIED, HUNG, RAW, REFUSED, SCORED, Judge


def behave(how: str) -> str:
    """Misbehave as asked."""
    if how == "refuse":
        raise ModelFolderError("damaged")
    if how == "raise":
        raise KeyError("x")
    if how == "hang":
        time.sleep(60)
    if how == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    return how


def test_every_fault_is_seen_and_the_next_case_is_served() -> None:
    with Judge(behave, limit=0.5) as judge:
        outcomes = [judge(how) for how in ("score", "refuse", "raise", "hang", "score", "die")]
    assert [outcome.kind for outcome in outcomes] == [SCORED, REFUSED, RAW, HUNG, SCORED, DIED]
    assert [outcomes[i].text for i in (0, 1, 5)] == ["score", "ModelFolderError: damaged", "exit status -11"]
    assert "KeyError: 'x'" in outcomes[2].text
