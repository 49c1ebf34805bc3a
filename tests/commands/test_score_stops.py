"""A run that is stopped by a signal, or killed, keeps what was judged; the same command goes on to the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from glance_fast.commands.stop_signals import SIGNALS
from tests.helpers.command_line import run_command
from tests.helpers.images import save_images

COUNT = 14


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder of images."""
    folder = tmp_path_factory.mktemp("work")
    save_images(folder / "in", COUNT)
    return folder


@pytest.fixture(scope="module")
def whole(work: Path, tiny_folder: Path) -> dict[str, bytes]:
    """The tables and overlays of a run that nothing stops."""
    before = Path.cwd()
    os.chdir(work)
    try:
        run_command("score", "in", "--model", tiny_folder, "--output", "out")
    finally:
        os.chdir(before)
    content = files(work / "out")
    (work / "out").rename(work / "whole")
    return content


@pytest.fixture
def output(work: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The output folder of runs in `work`, which ends the test with what `whole` has."""
    monkeypatch.chdir(work)
    yield work / "out"
    assert files(work / "out") == whole
    (work / "out").rename(work / f"out-{len(list(work.iterdir()))}")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(output: Path) -> int:
    return len((output / "scores.jsonl").read_bytes().splitlines())


BEGIN = """
from tests.helpers.default_signals import default_signals
default_signals()
"""
# In a process of its own: a signal goes to any thread, also to those of a library that other tests loaded.
SIGNALLED = """
import os, sys
from glance_fast import cli
from glance_fast.engine import Engine
number, calls, score = int(sys.argv.pop(1)), [], Engine.score
def signalled(self, *arguments):
    calls.append(1)
    if len(calls) == 5:
        os.kill(os.getpid(), number)
    return score(self, *arguments)
Engine.score = signalled
cli.main()
"""


def run_signalled(number: signal.Signals, tiny_folder: Path) -> int:
    """The exit status of a run that gets a signal while it scores the fifth image."""
    arguments = [str(int(number)), "score", "in", "--model", str(tiny_folder), "--output", "out"]
    return run_script(SIGNALLED, *arguments)


def run_script(script: str, *arguments: str) -> int:
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", BEGIN + script, *arguments]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": root}, check=False).returncode


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_ends_a_run_after_the_images_in_work(number: signal.Signals, tiny_folder: Path, output: Path) -> None:
    assert run_signalled(number, tiny_folder) == 128 + number
    assert rows(output) == 5
    run_command("score", "in", "--model", tiny_folder, "--output", "out")


def test_a_killed_run_has_a_row_of_every_judged_image(tiny_folder: Path, output: Path) -> None:
    assert run_signalled(signal.SIGKILL, tiny_folder) == -signal.SIGKILL
    # The signal came before the fifth was scored.
    assert rows(output) == 4
    run_command("score", "in", "--model", tiny_folder, "--output", "out")


IGNORED = """
import os, signal
from glance_fast.commands.stop_signals import stop_on_signals
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with stop_on_signals() as stop:
    os.kill(os.getpid(), signal.SIGHUP)
    assert stop.number is None and stop.exit_status == 0
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.number == signal.SIGTERM and stop.exit_status == 143
assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
"""
INTERRUPTED = """
import os, signal
from glance_fast.commands.stop_signals import stop_on_signals
with stop_on_signals() as stop:
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.exit_status == 130
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        raise SystemExit(7)
"""


def test_ignored_signals_stay_ignored_and_former_handlers_come_back() -> None:
    """As under `nohup`."""
    assert run_script(IGNORED) == 0


def test_a_second_interrupt_ends_the_run_at_once() -> None:
    assert run_script(INTERRUPTED) == 7


PRINTS = """
import sys, time
from glance_fast.commands.stop_signals import stop_on_signals
with stop_on_signals() as stop:
    print("begun", flush=True)
    while stop.number is None:
        time.sleep(0.01)
    print("ended", flush=True)
    print("ended", file=sys.stderr, flush=True)
sys.exit(stop.exit_status)
"""


def test_a_terminal_that_is_closed_ends_a_run_in_order() -> None:
    """What is printed then goes nowhere, instead of being an error."""
    terminal, other_end = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN + PRINTS],
        cwd=Path(__file__).parents[2],
        preexec_fn=lambda: os.login_tty(other_end),
    )
    os.close(other_end)
    assert os.read(terminal, 5) == b"begun"
    os.close(terminal)
    assert process.wait(60) == 128 + signal.SIGHUP
