"""Files that a record vouches for by their SHA-256, and the faults of a record that pydantic refuses."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import ValidationError

from glance_fast.data.regular_file import read_regular
from glance_fast.errors import ModelFolderError


def sha256(data: bytes) -> str:
    """The SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def read_file(path: Path, limit: int, remedy: str) -> bytes:
    """The bytes of a regular file of at most `limit` bytes; ModelFolderError, which ends in `remedy`, for any other."""
    try:
        return read_regular(path, limit)
    except OSError as error:
        raise ModelFolderError(f"{path} cannot be read ({error.strerror}); {remedy}") from None


def read_checked(path: Path, limit: int, digest: object, written: str, remedy: str) -> bytes:
    """The bytes of a file of at most `limit` bytes whose SHA-256 must be `digest`.

    Raises ModelFolderError where the file cannot be read or is another one. `written` ends the sentence "is not the
    file that ..."; `remedy` says what to do.
    """
    data = read_file(path, limit, remedy)
    if sha256(data) != digest:
        raise ModelFolderError(f"{path} is not the file that {written} ({len(data)} bytes, wrong SHA-256); {remedy}")
    return data


def faults(error: ValidationError) -> str:
    """All faults that pydantic found, joined: "field: message; ..."."""
    return "; ".join(": ".join([*map(str, fault["loc"]), fault["msg"]]) for fault in error.errors())
