"""Runs of the product in processes of their own, which a test ends by a signal at a moment of its choice."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch

from glance_fast import cli
from glance_fast.training.train import Job, train_model
from tests.helpers.default_signals import default_signals
from tests.helpers.models import tiny_config
from tests.helpers.training import TRAIN

# Children are forked from a process that has imported what they need, so that signals do not meet imports alone.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.helpers.processes", "glance_fast.engine", "glance_fast.export.export"])
TIMEOUT = 120.0


def command(*arguments: str) -> None:
    """Run the command line."""
    default_signals()
    torch.set_num_threads(1)
    sys.argv = ["glance-fast", "-q", *arguments]
    cli.main()


def train(data: Path, output: Path) -> None:
    """Train a tiny model, or go on with its unfinished run."""
    default_signals()
    torch.set_num_threads(1)
    train_model(Job(data, output), tiny_config(), TRAIN)


def start(function: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Run a function of this module in a process of its own."""
    process = _context.Process(target=function, args=arguments)
    process.start()
    return process


def finish(function: Callable[..., None], *arguments: Any) -> float:
    """Run a function to its end, which must be a success; the seconds that it took."""
    started = time.monotonic()
    assert ended(start(function, *arguments)) == 0
    return time.monotonic() - started


def send(process: ForkServerProcess, number: signal.Signals) -> None:
    """Send a signal to a process, which may have ended already."""
    if process.exitcode is None and process.pid is not None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


def ended(process: ForkServerProcess) -> int:
    """The exit status of a process, which must end by itself; that of one ended by signal n is -n."""
    process.join(TIMEOUT)
    hung = process.exitcode is None
    process.kill()
    assert not hung, f"it did not end within {TIMEOUT:.0f} s"
    assert process.exitcode is not None
    return process.exitcode
