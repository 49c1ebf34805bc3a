"""The calls that keep data through a power cut, in order: recorded in this process, or read from strace's output."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from glance_fast.storage.exchange import exchange

# What a file was when it was flushed: its number, size and time of the last change; of strace: nothing is known.
State = tuple[int, int, int] | None


@dataclass(frozen=True)
class Sync:
    """A flush of a file or folder. `state`: of a file, for comparison with what is renamed later."""

    path: Path
    state: State = None


@dataclass(frozen=True)
class Rename:
    """A rename, or an exchange, of a file or folder. `states`: what stood in it, by path below it."""

    source: Path
    target: Path
    states: dict[str, State]


Call = Sync | Rename


@contextmanager
def recorded_calls() -> Iterator[list[Call]]:
    """The flushes and renames of this process during the with-block."""
    calls: list[Call] = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor: int) -> None:
        fsync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        calls.append(Sync(path, _state(os.fstat(descriptor))))  # its name may be gone

    def recorded_replace(source: Any, target: Any, **options: Any) -> None:
        rename = Rename(Path(source).absolute(), Path(target).absolute(), states(Path(source)))
        replace(source, target, **options)
        calls.append(rename)

    def recorded_exchange(first: Path, second: Path) -> bool:
        rename = Rename(first.absolute(), second.absolute(), states(first))
        done = exchange(first, second)
        if done:
            calls.append(rename)
        return done

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", recorded_fsync)
        patched.setattr(os, "replace", recorded_replace)
        patched.setattr(os, "rename", recorded_replace)
        patched.setattr("glance_fast.storage.atomic_write.exchange", recorded_exchange)
        yield calls


def state(path: Path) -> State:
    """A file's number, size and time of the last change; None for a folder."""
    return _state(path.stat())


def _state(status: os.stat_result) -> State:
    return None if stat.S_ISDIR(status.st_mode) else (status.st_ino, status.st_size, status.st_mtime_ns)


def states(path: Path) -> dict[str, State]:
    """The state of a file, or of a folder and everything in it, by path below it; "." is itself."""
    return {str(part.relative_to(path)): state(part) for part in [path, *path.rglob("*")] if not part.is_symlink()}


def traced_calls(trace: str) -> list[Call]:
    """The calls in the output of `strace -y -e trace=fsync,rename,renameat2`."""
    calls: list[Call] = []
    for line in trace.splitlines():
        if synced := re.search(r"fsync\(\d+<([^>]+)>\)\s+= 0", line):
            calls.append(Sync(Path(synced[1])))
        elif renamed := re.search(r"rename(?:at2?)?\(.*?\"([^\"]+)\", .*?\"([^\"]+)\".*\)\s+= 0", line):
            calls.append(Rename(Path(renamed[1]), Path(renamed[2]), {".": None}))
    return calls


def require_durable(calls: Sequence[Call]) -> None:
    """Fail unless whatever is renamed was flushed as it is, before, and its new name was flushed after."""
    for position, call in enumerate(calls):
        if isinstance(call, Rename):
            flushed = {sync.path: sync.state for sync in calls[:position] if isinstance(sync, Sync)}
            for name, content in call.states.items():
                path = call.source if name == "." else call.source / name
                assert path in flushed, f"{path} was renamed to {call.target} before it was flushed"
                assert flushed[path] == content, f"{path} was changed after it had been flushed"
            later = {sync.path for sync in calls[position:] if isinstance(sync, Sync)}
            assert call.target.parent in later, f"the name {call.target} was never flushed"
