"""Writing files so that a reader never meets half of one: beside, then renamed into place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glance_fast.errors import SaveError


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` in one step; raises SaveError, and leaves what was there, when the disk refuses."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(data)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise SaveError(f"cannot write {path}: {error.strerror or error}; free space or choose another folder") from error


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder to fill; it takes the place of `path` at the end, or vanishes when filling it fails."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.writing")
    before = path.with_name(f".{path.name}.{os.getpid()}.before")
    try:
        beside.mkdir(parents=True)
        yield beside
        if path.exists():
            path.replace(before)
        beside.replace(path)
    except OSError as error:
        if before.exists() and not path.exists():
            before.replace(path)
        raise SaveError(f"cannot write {path}: {error.strerror or error}; free space or choose another folder") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)
