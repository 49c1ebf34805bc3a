"""The lock of a folder that a run writes to: a second run is refused, and a killed run leaves no lock."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from glance_fast.errors import SaveError
from glance_fast.storage.atomic_write import refused
from glance_fast.storage.sync import make_folder

LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, which is made if missing, for the with-block; SaveError where another run holds it.

    The system frees it when the process ends, however it ends. The file `.lock` is removed at the end of the block.
    """
    path = folder / LOCK
    # Where a file system has no locks this is an error: a lock that is a mere file would outlive a killed run.
    lock = FileLock(path, blocking=False, fallback_to_soft=False)
    try:
        make_folder(folder)
        lock.acquire()
        own = path.stat()
    except Timeout:
        raise SaveError(
            f"another run is writing to {folder}; wait until it has ended, or choose another folder"
        ) from None
    except (OSError, ValueError) as error:
        raise refused(folder, error) from error
    try:
        yield
    finally:
        # Before the release: whoever has opened the file sees then that it has no name, and is refused. The folder may
        # have been replaced, and another run may hold the lock of the new folder.
        with suppress(OSError):
            if os.path.samestat(path.stat(), own):
                path.unlink()
        lock.release()
