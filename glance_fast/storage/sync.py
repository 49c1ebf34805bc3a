"""Flushing to the disk: what a power cut must not take is synced, a file before its name, a name in its folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def sync_file(path: Path) -> None:
    """Flush a file's content to the disk; raises OSError."""
    _sync(path, os.O_RDONLY)


def sync_folder(path: Path) -> None:
    """Flush the names in a folder to the disk; raises OSError. Nothing on Windows, which has no such call."""
    if os.name != "nt":
        _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def sync_tree(folder: Path) -> None:
    """Flush a folder with everything in it to the disk, from the leaves up; raises OSError. Links are not followed."""
    for path, _, files in os.walk(folder, topdown=False):
        for name in files:
            file = Path(path, name)
            if not file.is_symlink():
                sync_file(file)
        sync_folder(Path(path))


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents, their names flushed to the disk; raises OSError."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot flush a folder: there the server does.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)
