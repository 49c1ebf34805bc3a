"""One run writes to a folder at a time, and a killed run leaves no lock."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from glance_fast.errors import SaveError
from glance_fast.storage.atomic_write import replace_folder
from glance_fast.storage.folder_lock import LOCK, locked

HOLD = (
    "import sys; from pathlib import Path; from glance_fast.storage.folder_lock import locked\n"
    "with locked(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
)


def test_a_second_run_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    for _ in range(2):
        with locked(folder):
            with (
                pytest.raises(SaveError, match=r"another run is writing to .*out; wait until it has ended"),
                locked(folder),
            ):
                raise AssertionError("the block must not run")
            with locked(tmp_path / "other"):
                pass
        assert list(folder.iterdir()) == []


def test_the_lock_of_a_killed_run_is_free(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"locked\n"
        with pytest.raises(SaveError, match="another run"), locked(tmp_path):
            raise AssertionError("the block must not run")
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / LOCK).exists()
    with locked(tmp_path):
        pass


def test_a_lock_in_a_folder_that_was_replaced_leaves_that_of_the_new_folder(tmp_path: Path) -> None:
    with locked(tmp_path / "model"):
        with replace_folder(tmp_path / "model"):
            pass
        with locked(tmp_path / "model"):
            pass
    with locked(tmp_path / "model"):
        with replace_folder(tmp_path / "model"):
            pass
        (tmp_path / "model" / LOCK).touch()
    assert (tmp_path / "model" / LOCK).exists()


def test_a_folder_that_cannot_be_locked_is_a_save_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(SaveError, match="cannot write .*file"), locked(tmp_path / "file"):
        raise AssertionError("the block must not run")
    (tmp_path / "out" / LOCK).mkdir(parents=True)
    with pytest.raises(SaveError, match="cannot write .*out"), locked(tmp_path / "out"):
        raise AssertionError("the block must not run")
