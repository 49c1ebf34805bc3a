"""Regular files alone, of a bounded size: FIFOs, devices and giants are refused at once, never waited for."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

# What the type bits of a file's mode stand for, apart from regular files and folders.
_SPECIAL = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFSOCK: "a socket",
}


def open_regular(path: Path, limit: int) -> BufferedReader:
    """The regular file `path`, open for reading; links are followed.

    Raises OSError, whose `strerror` is the reason, where it is missing, no regular file, or larger than `limit` bytes.
    """
    try:
        # Before it is opened, as opening wakes some devices; and again once it is open, as a path can change meanwhile.
        _check(os.stat(path), path, limit)
        file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115 (the caller closes it)
    except ValueError as error:  # a null character, or half of a surrogate pair
        raise OSError(errno.EINVAL, f"no path of a file: {error}", str(path)) from None
    try:
        _check(os.fstat(file.fileno()), path, limit)
    except OSError:
        file.close()
        raise
    return file


def read_regular(path: Path, limit: int) -> bytes:
    """The bytes of the regular file `path`; raises OSError as `open_regular` does, and where the file changes size."""
    with open_regular(path, limit) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(size + 1)
    if len(data) != size:
        raise OSError(errno.EIO, f"it changed while it was read, from {size} bytes", str(path))
    return data


def _check(status: os.stat_result, path: Path, limit: int) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if kind != stat.S_IFREG:
        raise OSError(errno.EINVAL, f"it is {_SPECIAL.get(kind, 'of an unknown kind')}, not a regular file", str(path))
    if status.st_size > limit:
        raise OSError(errno.EFBIG, f"it has {status.st_size:,} bytes, and at most {limit:,} are read", str(path))


def _open_at_once(path: str, flags: int) -> int:
    """An opener that does not wait for the writer of a FIFO; Windows has neither the flag nor FIFOs in folders."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
