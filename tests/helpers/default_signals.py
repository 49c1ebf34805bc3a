"""Signals as a process has them that a user starts in a terminal."""

from __future__ import annotations

import signal


def default_signals() -> None:
    """Undo what is inherited: `nohup` lets its children ignore SIGHUP, a shell's background jobs ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
