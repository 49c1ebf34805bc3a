"""File names of overlays: one per image, made from the image's path, and short enough for the file system."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

SUFFIX = ".jpg"
# What ext4, XFS, NTFS and most others allow; asked of the system where it answers.
_NAME_BYTES, _PATH_BYTES = 255, 4096
# A file is written under a temporary name, which may be longer than its own.
_TEMPORARY_BYTES = 20
_HASH_DIGITS = 12


def overlay_names(paths: Sequence[Path], folder: Path) -> Iterator[str]:
    """A unique name per overlay in `folder`: the path below the common folder, its parts joined by underscores."""
    root = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    longest, used = longest_name(folder), set[str]()
    for path in paths:
        relative = path.absolute().relative_to(root)
        stem = "_".join([*relative.parent.parts, relative.stem])
        name, number = fitted(stem, longest), 2
        while name.casefold() in used:  # file systems of Windows and macOS do not tell A from a
            name, number = fitted(f"{stem}_{number}", longest), number + 1
        used.add(name.casefold())
        yield name


def distinct_name(name: str, sha256: str | None, folder: Path) -> str:
    """Another name for an overlay whose `name` one of another content of its image has: with the content's hash."""
    return fitted(f"{name.removesuffix(SUFFIX)}-{str(sha256)[:_HASH_DIGITS]}", longest_name(folder))


def longest_name(folder: Path) -> int:
    """The length in bytes of the longest file name that fits into `folder`, by the limits of names and of paths."""
    name_bytes, path_bytes = _NAME_BYTES, _PATH_BYTES
    if hasattr(os, "pathconf"):
        name_bytes, path_bytes = os.pathconf(folder, "PC_NAME_MAX"), os.pathconf(folder, "PC_PATH_MAX")
    return min(name_bytes, path_bytes - len(os.fsencode(folder.absolute())) - _TEMPORARY_BYTES)


def fitted(stem: str, longest: int) -> str:
    """`stem` with the suffix; where that is longer than `longest` bytes, the start of `stem` and a hash of it all."""
    encoded = os.fsencode(stem)
    if len(encoded) + len(SUFFIX) <= longest:
        return stem + SUFFIX
    ending = f"-{hashlib.sha256(encoded).hexdigest()[:_HASH_DIGITS]}{SUFFIX}"
    return encoded[: max(0, longest - len(ending))].decode("utf-8", "ignore") + ending
