"""Paths that no other user can change: the only ones that compiled code is loaded from."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def distrust(path: Path) -> str | None:
    """Why another user could change the file or folder `path`, a resolved path, or None if only we and root can.

    As for the files of ssh and sudo: the path and every folder above it belong to us or to root, and nobody else may
    write to them. Unlike there, a folder above the last one may be writable if it is sticky, as /tmp is: only its owner
    can rename or replace an entry of it. The check begins at the root, so that what has passed cannot be exchanged any
    more. Raises OSError where the path cannot be read.
    """
    for part in (*reversed(path.parents), path):
        status = part.lstat()
        if stat.S_ISLNK(status.st_mode):
            return f"{part} is a link"
        if status.st_uid not in (0, os.geteuid()):
            return f"{part} belongs to another user"
        shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if shared and not (part in path.parents and status.st_mode & stat.S_ISVTX):
            return f"others may write to {part}"
    return None


def make_private(folder: Path) -> None:
    """Make a folder and those above it that are missing, for this user alone; raises OSError."""
    for part in (*reversed(folder.parents), folder):
        if not part.exists():
            part.mkdir(mode=0o700, exist_ok=True)
