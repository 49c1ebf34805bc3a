"""Peak memory of this process and of others, on this machine's own counters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from glance_fast.commands import peak_memory
from glance_fast.commands.peak_memory import peak_rss, peak_rss_of


def test_peak_memory_is_that_of_the_process_alone_and_stays() -> None:
    code = (
        "from glance_fast.commands.peak_memory import peak_rss; before = peak_rss(); block = bytearray(200_000_000); "
        "high = peak_rss(); del block; print(before, high, peak_rss())"
    )
    parent = np.ones(100_000_000, np.float32)  # a parent's memory is not counted
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, high, after = map(int, done.stdout.split())
    assert parent[0] == 1 and 190_000_000 < high - before < 260_000_000 and after > 0.99 * high and before < 200_000_000


def test_another_process_prints_its_peak_or_fails() -> None:
    python = (sys.executable, "-c")
    assert peak_rss_of([*python, "print('loading', 12345)"]) == 12345
    assert peak_rss_of([*python, "print(None)"]) is None
    with pytest.raises(subprocess.CalledProcessError) as caught:
        peak_rss_of([*python, "raise SystemExit('no such model')"])
    assert "no such model" in caught.value.stderr


def test_memory_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peak_memory, "STATUS", tmp_path / "none")
    peak = peak_rss()
    assert peak is None or peak > 10_000_000
