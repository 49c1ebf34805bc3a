"""A child process that loads damaged things, and a watchdog that says what became of it.

A process per case would take minutes: a child serves many, and a new one takes its turn after a case that it did not
survive.
"""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Self

import torch

from glance_fast.errors import GlanceError

# Seconds to start a child, to import PyTorch there, and to serve a first case.
START_SECONDS = 120.0

SCORED, REFUSED, RAW, DIED, HUNG = "gave", "refused", "raw exception", "died", "hung"


@dataclass(frozen=True)
class Outcome:
    """What became of a case: `kind` is one of the names above, `text` the value that it gave, or the error."""

    kind: str
    text: str


class Judge:
    """Calls a function in a child process; within `limit` seconds it gives a text or a GlanceError, or it is at fault.

    `limit` seconds hold after the first call, which may also have to import.
    """

    def __init__(self, function: Callable[..., str], limit: float = 5.0) -> None:
        self.function, self.limit = function, limit
        self._child: multiprocessing.context.SpawnProcess | None = None
        self._connection: Connection | None = None

    def __call__(self, *arguments: Any) -> Outcome:
        """What became of a call with `arguments`, which must be picklable."""
        limit = self.limit
        if self._child is None:
            self._start()
            limit = START_SECONDS
        assert self._child is not None and self._connection is not None
        try:
            self._connection.send(arguments)
            if self._connection.poll(limit):
                return Outcome(*self._connection.recv())
            outcome = Outcome(HUNG, f"for {limit:.0f} s")
        except (EOFError, OSError):
            self._child.join()
            outcome = Outcome(DIED, f"exit status {self._child.exitcode}")
        self._stop()
        return outcome

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._child = context.Process(target=_serve, args=(self.function, theirs), daemon=True)
        self._child.start()
        theirs.close()

    def _stop(self) -> None:
        if self._child is not None and self._connection is not None:
            self._child.kill()
            self._child.join()
            self._connection.close()
        self._child = self._connection = None


def _serve(function: Callable[..., str], connection: Connection) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    while True:
        arguments = connection.recv()
        try:
            reply = (SCORED, function(*arguments))
        except GlanceError as error:
            reply = (REFUSED, f"{type(error).__name__}: {error}")
        except BaseException:  # noqa: BLE001 (any other is what is looked for)
            reply = (RAW, traceback.format_exc())
        connection.send(reply)
