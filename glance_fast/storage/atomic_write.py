"""Writing files so that a reader never meets half of one: beside, then renamed into place."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from glance_fast.errors import SaveError


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` in one step; SaveError, and what was there is left, when the disk refuses."""
    try:
        beside = _beside(path.absolute(), "writing")
        beside.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise _refused(path, error) from error
    try:
        beside.write_bytes(data)
        beside.replace(path)
    except (OSError, ValueError) as error:
        raise _refused(path, error) from error
    finally:
        with suppress(OSError, ValueError):
            beside.unlink(missing_ok=True)


def append_file(path: Path, data: bytes) -> None:
    """Add `data` at the end of `path`, which is made if it is not there; SaveError when the disk refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(data)
    except (OSError, ValueError) as error:
        raise _refused(path, error) from error


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder to fill; it takes the place of `path` at the end, or vanishes when filling fails.

    A link is followed. Raises SaveError when the disk refuses or a file is in the way; what was there stays.
    """
    try:
        target = path.resolve()
        if os.path.lexists(target) and not target.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file of that name is in the way")
        beside, before = _beside(target, "writing"), _beside(target, "before")
        beside.mkdir(parents=True)
    except (OSError, ValueError) as error:
        raise _refused(path, error) from error
    try:
        yield beside
        if target.exists():
            target.replace(before)
        beside.replace(target)
    except OSError as error:
        raise _refused(path, error) from error
    finally:
        # Here, so that an interrupt between the two renames too gives the old folder back.
        if before.exists() and not target.exists():
            before.replace(target)
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)


def _beside(path: Path, role: str) -> Path:
    # A random name: process ids repeat in containers, and threads share one.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{role}")


def _refused(path: Path, error: OSError | ValueError) -> SaveError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return SaveError(f"cannot write {path}: {reason}; free space or choose another folder")
