"""Signals that ask a command to stop: it ends its work in order, and says by its exit status which one came."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Ctrl-C; `kill`, `docker stop` and systemd; a terminal that is closed. Windows has no SIGHUP.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class StopRequest:
    """Whether a signal has come: its `number`, or None."""

    number: int | None = None

    @property
    def exit_status(self) -> int:
        """128 + the signal's number, as shells report a process that a signal ended; 0 without a signal."""
        return 0 if self.number is None else 128 + self.number


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """In the with-block, signals only set the number of the yielded request. Of the main thread alone.

    Ignored signals stay ignored, as `nohup` wants it. A second Ctrl-C interrupts as it does elsewhere.
    """
    request = StopRequest()
    former = {number: signal.getsignal(number) for number in SIGNALS}
    # None is a handler of a library in C, which Python cannot give back.
    caught = {
        number: signal.SIG_DFL if handler is None else handler
        for number, handler in former.items()
        if handler is not signal.SIG_IGN
    }

    def handle(number: int, _: FrameType | None) -> None:
        request.number = number
        if signal.SIGINT in caught:
            signal.signal(signal.SIGINT, caught[signal.SIGINT])
        _silence_closed_terminal()

    for number in caught:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        for number, handler in caught.items():
            signal.signal(number, handler)


def _silence_closed_terminal() -> None:
    """Let output to a terminal that is gone go nowhere, as an error of writing to it would end the work."""
    for descriptor in (1, 2):
        try:
            os.write(descriptor, b"")
        except OSError:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), descriptor)
