"""Writes that a reader, a kill or a power cut sees whole or not at all.

A file or folder is written under a temporary name, flushed to the disk, renamed into place, and its new name is flushed
too. `AppendedFile` is for files that grow.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from glance_fast.errors import SaveError
from glance_fast.storage.exchange import exchange
from glance_fast.storage.sync import make_folder, sync_folder, sync_tree

# Longer names stand in their temporary name as a hash: both must fit the 255 bytes that file systems allow.
_NAME_BYTES = 100
_WRITING, _BEFORE = "writing", "before"


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` in one step; when the disk refuses, SaveError, and an earlier file stays."""
    try:
        temporary = _temporary(path.absolute(), _WRITING)
        make_folder(temporary.parent)
    except (OSError, ValueError) as error:
        raise refused(path, error) from error
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(temporary.parent)
    except (OSError, ValueError) as error:
        raise refused(path, error) from error
    finally:
        with suppress(OSError, ValueError):
            temporary.unlink(missing_ok=True)


def append_file(path: Path, data: bytes) -> None:
    """Append `data` to `path`, which is created if missing; nothing is appended when the disk refuses: SaveError."""
    with AppendedFile(path) as file:
        file.append(data)
        file.sync()


class AppendedFile:
    """A file that grows by whole pieces; it is created if missing. Raises SaveError when the disk refuses."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            make_folder(path.parent)
            is_new = not path.exists()
            self._file = path.open("ab", buffering=0)
            if is_new:
                sync_folder(path.parent)
        except (OSError, ValueError) as error:
            raise refused(path, error) from error

    def append(self, data: bytes) -> None:
        """Hand `data` to the system, which keeps it when this process is killed. A refused piece is taken back."""
        length = os.fstat(self._file.fileno()).st_size
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._file.truncate(length)
            raise refused(self.path, error) from error

    def sync(self) -> None:
        """Flush to the disk, which keeps what was appended when the power is cut."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise refused(self.path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill. It replaces `path` at the end of the with-block, or is removed after an error.

    The two exchange their names in one step. Where the file system cannot, the earlier folder is renamed first; after a
    power cut between the two renames, `recover_folder` renames it back. A link is followed. Raises SaveError when the
    disk refuses or a file is in the way; an earlier folder stays.
    """
    try:
        target = path.resolve()
        if os.path.lexists(target) and not target.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file of that name is in the way")
        temporary, previous = _temporary(target, _WRITING), _temporary(target, _BEFORE)
        make_folder(temporary)
    except (OSError, ValueError) as error:
        raise refused(path, error) from error
    try:
        yield temporary
        sync_tree(temporary)
        if not target.exists():
            temporary.replace(target)
        elif not exchange(temporary, target):
            target.replace(previous)
            temporary.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise refused(path, error) from error
    finally:
        # In `finally`, so that an interrupt between the two renames also restores the previous folder.
        if previous.exists() and not target.exists():
            previous.replace(target)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(previous, ignore_errors=True)


def recover_folder(path: Path) -> None:
    """Give a folder its name back that `replace_folder` had renamed when it was ended; nothing where `path` exists.

    For whoever reads or replaces the folder. Raises SaveError.
    """
    try:
        target = path.resolve()
        if target.exists():
            return
        if renamed := _left_beside(target, _BEFORE):
            max(renamed, key=lambda folder: folder.stat().st_ctime_ns).replace(target)
            sync_folder(target.parent)
    except (OSError, ValueError) as error:
        raise refused(path, error) from error


def remove_unfinished(folder: Path) -> None:
    """Remove what killed writers of files left in a folder, whose lock the caller holds; raises SaveError."""
    try:
        for path in folder.glob(f".*.{_WRITING}"):
            if path.is_file():
                path.unlink()
    except OSError as error:
        raise refused(folder, error) from error


def remove_unfinished_folders(path: Path) -> None:
    """Remove what killed writers of the folder `path` left beside it; the caller holds the lock. Raises SaveError."""
    try:
        for unfinished in _left_beside(path.resolve(), _WRITING):
            shutil.rmtree(unfinished)
    except (OSError, ValueError) as error:
        raise refused(path, error) from error


def refused(path: Path, error: OSError | ValueError) -> SaveError:
    """The error for a write to `path` that failed with `error`."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return SaveError(f"cannot write {path}: {reason}; free space or choose another folder")


def _temporary(path: Path, role: str) -> Path:
    # A random name: process ids repeat in containers, and threads share one.
    return path.with_name(f".{_shortened(path.name)}.{secrets.token_hex(4)}.{role}")


def _left_beside(target: Path, role: str) -> list[Path]:
    """The temporary folders of `target` with this role that ended processes have left."""
    name = re.compile(rf"\.{re.escape(_shortened(target.name))}\.[0-9a-f]{{8}}\.{role}")
    return [path for path in target.parent.iterdir() if name.fullmatch(path.name)] if target.parent.is_dir() else []


def _shortened(name: str) -> str:
    encoded = os.fsencode(name)
    return name if len(encoded) <= _NAME_BYTES else hashlib.sha256(encoded).hexdigest()
