"""The process that runs networks: a fork copies one thread, and runtimes wait for ever for those that it leaves out."""

from __future__ import annotations

import os

from glance_fast.errors import BackendError

# The process whose runtimes have been started; a forked child inherits its parent's.
_process: int | None = None


def require_own_runtimes() -> None:
    """Raise BackendError in a process that was forked after runtimes had been started in its parent.

    Called before a runtime is started and before each use of it. Some of them work in a forked child, most of the time;
    a new runtime in the child waits for the threads of the old as well.
    """
    global _process
    process = os.getpid()
    if _process is None:
        _process = process
    if process != _process:
        raise BackendError(
            f"process {process} was forked from process {_process} after Engine.load, without the threads that score: "
            "load the engine in the child, and start the child by 'spawn' or 'forkserver' "
            "(multiprocessing.get_context('spawn')), or fork it before the first Engine.load"
        )
