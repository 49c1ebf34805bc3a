"""Atomic writes: a temporary file or folder, renamed into place, so that a reader never sees half of it."""

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
    """Write `data` to `path` in one step; when the disk refuses, SaveError, and an earlier file stays."""
    try:
        temporary = _temporary(path.absolute(), "writing")
        temporary.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise _refused(path, error) from error
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except (OSError, ValueError) as error:
        raise _refused(path, error) from error
    finally:
        with suppress(OSError, ValueError):
            temporary.unlink(missing_ok=True)


def append_file(path: Path, data: bytes) -> None:
    """Append `data` to `path`, which is created if missing; SaveError when the disk refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(data)
    except (OSError, ValueError) as error:
        raise _refused(path, error) from error


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill. It replaces `path` at the end of the with-block, or is removed after an error.

    A link is followed. Raises SaveError when the disk refuses or a file is in the way; an earlier folder stays.
    """
    try:
        target = path.resolve()
        if os.path.lexists(target) and not target.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file of that name is in the way")
        temporary, previous = _temporary(target, "writing"), _temporary(target, "before")
        temporary.mkdir(parents=True)
    except (OSError, ValueError) as error:
        raise _refused(path, error) from error
    try:
        yield temporary
        if target.exists():
            target.replace(previous)
        temporary.replace(target)
    except OSError as error:
        raise _refused(path, error) from error
    finally:
        # In `finally`, so that an interrupt between the two renames also restores the previous folder.
        if previous.exists() and not target.exists():
            previous.replace(target)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(previous, ignore_errors=True)


def _temporary(path: Path, role: str) -> Path:
    # A random name: process ids repeat in containers, and threads share one.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{role}")


def _refused(path: Path, error: OSError | ValueError) -> SaveError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return SaveError(f"cannot write {path}: {reason}; free space or choose another folder")
